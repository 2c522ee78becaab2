//! Values of the configuration as people write them: times ("10s", "1h 30m"), sizes ("512MiB"), shares ("90%"). Each is read from
//! and written as that text; what cannot be meant is refused with an example of what can.

use std::{fmt, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

/// Longest time that is accepted anywhere; keeps arithmetic on clocks far from its limits.
const MAX_TIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Units of sizes, the longest spelling first where one ends like another. A bare letter means the binary unit, as in the
/// configuration of systemd.
const UNITS: [(&str, u64); 13] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("b", 1),
];

/// A length of time: "10s", "500ms", "1h 30m", "30d". At most ten years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

/// A number of bytes: "512MiB", "1.5 GiB", "100 MB", or a plain integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// A share, 0 to 1: 0.9 or "90%".
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Ratio(pub f64);

/// Why a text is no such value: one sentence with an example.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

impl Time {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// In seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl FromStr for Time {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let parsed = humantime::parse_duration(text.trim());
        let time = parsed.map_err(|_| {
            SettingError(format!("\"{text}\" is no time: write one such as \"10s\", \"500ms\" or \"1h 30m\""))
        })?;
        match time <= MAX_TIME {
            true => Ok(Self(time)),
            false => Err(SettingError(format!("\"{text}\" is longer than ten years"))),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Size {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let lower = text.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor)));
        let (number, factor) = unit.unwrap_or((lower.as_str(), 1));
        bytes(number.trim(), factor).map(Self).ok_or_else(|| {
            SettingError(format!("\"{text}\" is no size: write one such as \"512MiB\" or \"2 GiB\""))
        })
    }
}

/// So many times a unit; `None`: no number, or more than 64 bits hold.
fn bytes(number: &str, factor: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let bytes = number.parse::<f64>().ok().filter(|_| plain)? * factor as f64;
    (bytes.is_finite() && bytes < u64::MAX as f64).then_some(bytes as u64)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = |(unit, name): (u32, &'static str)| {
            (self.0 > 0 && self.0.trailing_zeros() >= unit).then_some((unit, name))
        };
        match [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")].into_iter().find_map(binary) {
            Some((unit, name)) => write!(f, "{}{name}", self.0 >> unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Ratio {
    fn checked(share: f64) -> Result<Self, SettingError> {
        match (0.0..=1.0).contains(&share) {
            true => Ok(Self(share)),
            false => Err(SettingError(format!("{share} is no share: write one from 0 to 1, or \"90%\""))),
        }
    }
}

impl FromStr for Ratio {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let wrong = || SettingError(format!("\"{text}\" is no share: write one such as 0.9 or \"90%\""));
        let share = match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
            None => text.trim().parse::<f64>(),
        };
        share.map_err(|_| wrong()).and_then(|share| Self::checked(share).map_err(|_| wrong()))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// What a value is made of when it is not written as text.
trait Setting: FromStr<Err = SettingError> {
    const EXPECTED: &'static str;

    fn of_integer(_: u64) -> Option<Self> {
        None
    }

    fn of_number(_: f64) -> Option<Result<Self, SettingError>> {
        None
    }
}

impl Setting for Time {
    const EXPECTED: &'static str = "a time with its unit, such as \"10s\" or \"1h 30m\"";
}

impl Setting for Size {
    const EXPECTED: &'static str = "a size such as \"512MiB\"";

    fn of_integer(bytes: u64) -> Option<Self> {
        Some(Self(bytes))
    }
}

impl Setting for Ratio {
    const EXPECTED: &'static str = "a share such as 0.9 or \"90%\"";

    fn of_integer(share: u64) -> Option<Self> {
        Self::checked(share as f64).ok()
    }

    fn of_number(share: f64) -> Option<Result<Self, SettingError>> {
        Some(Self::checked(share))
    }
}

struct Reader<T>(std::marker::PhantomData<T>);

impl<T: Setting> Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::of_integer(number).ok_or_else(|| E::custom(format!("{number} is not {}", T::EXPECTED)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let positive = u64::try_from(number).ok().and_then(T::of_integer);
        positive.ok_or_else(|| E::custom(format!("{number} is not {}", T::EXPECTED)))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        let made = T::of_number(number).map(|made| made.map_err(E::custom));
        made.unwrap_or_else(|| Err(E::custom(format!("{number} is not {}", T::EXPECTED))))
    }
}

macro_rules! as_text {
    ($($setting:ty),*) => {$(
        impl<'de> Deserialize<'de> for $setting {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(Reader(std::marker::PhantomData))
            }
        }

        impl Serialize for $setting {
            fn serialize<S: Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
                into.collect_str(self)
            }
        }
    )*};
}

as_text!(Time, Size, Ratio);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Section {
        keep: Option<Time>,
        size: Option<Size>,
        share: Option<Ratio>,
    }

    fn read(line: &str) -> Result<Section, String> {
        toml::from_str(line).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(read("keep = '1h 30m'").unwrap().keep, Some(Time::seconds(5400)));
        assert_eq!(read("size = '512MiB'").unwrap().size, Some(Size(512 << 20)));
        assert_eq!(read("size = '1.5 GB'").unwrap().size, Some(Size(1_500_000_000)));
        assert_eq!(read("size = '2k'").unwrap().size, Some(Size(2048)));
        assert_eq!(read("size = 7").unwrap().size, Some(Size(7)));
        assert_eq!(read("share = '90%'").unwrap().share, Some(Ratio(0.9)));
        assert_eq!(read("share = 0.5").unwrap().share, Some(Ratio(0.5)));
        assert_eq!(read("share = 1").unwrap().share, Some(Ratio(1.0)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_an_example() {
        for (line, example) in [
            ("keep = 10", "10s"),
            ("keep = '10'", "10s"),
            ("keep = true", "10s"),
            ("keep = '1000y'", "ten years"),
            ("size = -1", "512MiB"),
            ("size = 1.5", "512MiB"),
            ("size = 'much'", "512MiB"),
            ("size = '1e9'", "512MiB"),
            ("size = '99999999999TiB'", "512MiB"),
            ("share = 2", "90%"),
            ("share = 1.5", "90%"),
            ("share = '120%'", "90%"),
            ("share = 'NaN'", "90%"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(example), "{line}: {error}");
        }
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        for text in ["1h 30m", "10s", "500ms"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
        for text in ["512MiB", "3GiB", "1000B", "0B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("90%".parse::<Ratio>().unwrap().to_string(), "90%");
    }
}
