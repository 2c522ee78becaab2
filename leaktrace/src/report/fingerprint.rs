//! The identity of an allocation site that outlives a run: what its frames mean, not where they lie. Pure.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::model::{Frame, FrameKind, SiteReport};
use super::plumbing;

/// Identity of an allocation site across runs, restarts and processes of the same code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteKey(pub [u8; 16]);

impl fmt::Display for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Other programs get it as the text that people see.
impl Serialize for SiteKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SiteKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("a site is 32 hexadecimal digits"))
    }
}

impl SiteKey {
    /// As [`fmt::Display`] writes it; `None`: not 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = (text.len() == 32 && text.is_ascii()).then_some(text)?;
        Some(Self(u128::from_str_radix(digits, 16).ok()?.to_be_bytes()))
    }

    /// The key of a site: whether it is a heap's, its kind of mapping, and what each telling frame is. Which heap depends on how
    /// closely it was looked at: light tracing sees the C library's, exact tracing Python's on top of that.
    pub fn of(site: &SiteReport) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[u8::from(site.domain == "mmap")]);
        text(&mut hasher, site.label.as_deref());
        plumbing::telling(&site.frames).for_each(|frame| add(&mut hasher, frame));
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        Self(key)
    }
}

/// Python code is a line of a function. Native code is a line too where lines are known, else a function of an object, else a
/// place in one build of it.
fn add(hasher: &mut blake3::Hasher, frame: &Frame) {
    hasher.update(&[match frame.kind {
        FrameKind::Native => 0,
        FrameKind::Python => 1,
        FrameKind::Other => 2,
    }]);
    text(hasher, frame.function.as_deref());
    text(hasher, frame.file.as_deref());
    hasher.update(&frame.line.unwrap_or(0).to_le_bytes());
    if frame.file.is_none() {
        text(hasher, frame.object.as_deref());
    }
    if frame.function.is_none() && frame.file.is_none() {
        text(hasher, frame.build_id.as_deref());
        hasher.update(&frame.file_offset.unwrap_or(frame.address).to_le_bytes());
    }
}

/// With its length, so that no two lists of texts look alike.
fn text(hasher: &mut blake3::Hasher, text: Option<&str>) {
    hasher.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
    hasher.update(text.unwrap_or_default().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(line: u32, address: u64) -> SiteReport {
        let frame = Frame {
            kind: FrameKind::Python,
            function: Some("record".into()),
            file: Some("/srv/log.py".into()),
            line: Some(line),
            address,
            ..Frame::default()
        };
        SiteReport { domain: "py".into(), frames: vec![frame], ..SiteReport::default() }
    }

    #[test]
    fn a_site_is_its_lines_and_not_its_addresses() {
        assert_eq!(SiteKey::of(&site(7, 1)), SiteKey::of(&site(7, 2)));
        assert_ne!(SiteKey::of(&site(7, 1)), SiteKey::of(&site(8, 1)));
        let lightly = SiteReport { domain: "malloc".into(), ..site(7, 1) };
        assert_eq!(SiteKey::of(&site(7, 1)), SiteKey::of(&lightly));
        let mapped = SiteReport { domain: "mmap".into(), ..site(7, 1) };
        assert_ne!(SiteKey::of(&site(7, 1)), SiteKey::of(&mapped));
    }

    #[test]
    fn keys_are_written_and_read() {
        let key = SiteKey::of(&site(7, 1));
        assert_eq!(SiteKey::parse(&key.to_string()), Some(key));
        assert_eq!(SiteKey::parse("+1"), None);
        let json = serde_json::to_string(&key).expect("JSON");
        assert_eq!(json, format!("\"{key}\""));
        assert_eq!(serde_json::from_str::<SiteKey>(&json).expect("the same"), key);
        let packed = rmp_serde::to_vec_named(&key).expect("packed");
        assert_eq!(rmp_serde::from_slice::<SiteKey>(&packed).expect("the same"), key);
    }
}
