//! `[serve]` of the configuration: where the API listens, and how much of everybody it shows to Prometheus.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer};

/// Most addresses to listen on.
const MOST_ADDRESSES: usize = 16;

/// Most series that anybody should want to keep of one daemon.
const MOST_SUBJECTS: usize = 10_000;

/// Most suspects of one subject.
const MOST_SUSPECTS: usize = 100;

/// `[serve]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// `"127.0.0.1:9780"`, `"unix:/run/leaktrace/api.sock"`, or a list of such; nothing is served if it is empty.
    #[serde(deserialize_with = "one_or_many")]
    pub listen: Vec<String>,
    /// Names by which a proxy on this host may pass requests on, besides `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// Most subjects in `/metrics`.
    pub max_subjects: usize,
    /// Most suspects of each subject in `/metrics`.
    pub max_suspects: usize,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:9780".to_owned()],
            hosts: Vec::new(),
            max_subjects: 200,
            max_suspects: 10,
        }
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// As it is written in the configuration.
    ///
    /// # Errors
    /// One sentence: what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Self::Unix(path)),
                false => Err(format!(
                    "serve.listen: \"{text}\" is relative: write an absolute path after \"unix:\""
                )),
            };
        }
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let address: SocketAddr = numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
            format!(
                "serve.listen: \"{text}\" is no address: write one such as \"127.0.0.1:9780\" or \"unix:/run/leaktrace/api.sock\""
            )
        })?;
        match is_loopback(address.ip()) {
            true => Ok(Self::Tcp(address)),
            false => Err(format!(
                "serve.listen: \"{text}\" can be reached from other machines, and the API asks nobody who they are: listen on 127.0.0.1 or a Unix socket, and let a proxy with authentication stand before it"
            )),
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl ServeConfig {
    /// What is wrong with it, one sentence each.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes: Vec<String> =
            self.listen.iter().take(MOST_ADDRESSES).filter_map(|text| Address::parse(text).err()).collect();
        if self.listen.len() > MOST_ADDRESSES {
            mistakes.push(format!("serve.listen has more than {MOST_ADDRESSES} addresses"));
        }
        for (key, number, most) in [
            ("max_subjects", self.max_subjects, MOST_SUBJECTS),
            ("max_suspects", self.max_suspects, MOST_SUSPECTS),
        ] {
            if number > most {
                mistakes
                    .push(format!("serve.{key} is {number}, which would swamp Prometheus: at most {most}"));
            }
        }
        mistakes
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an address such as \"127.0.0.1:9780\", or a list of addresses")]
    enum Listen {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Listen::deserialize(from)? {
        Listen::One(address) => vec![address],
        Listen::Many(addresses) => addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ServeConfig {
        toml::from_str(text).expect("valid TOML")
    }

    #[test]
    fn one_address_or_several() {
        assert_eq!(read("").listen, ["127.0.0.1:9780"]);
        assert_eq!(read("listen = '[::1]:1'").listen, ["[::1]:1"]);
        let several = read("listen = ['localhost:9', 'unix:/run/a.sock']");
        assert_eq!(several.mistakes(), Vec::<String>::new());
        assert_eq!(Address::parse("localhost:9"), Ok(Address::Tcp(([127, 0, 0, 1], 9).into())));
        assert!(read("listen = []").mistakes().is_empty());
        assert!(toml::from_str::<ServeConfig>("listen = 9780").is_err());
    }

    #[test]
    fn what_other_machines_could_reach_is_refused_with_the_reason() {
        for address in ["0.0.0.0:9780", "192.168.1.2:9780", "[::]:9780", "[::ffff:10.0.0.1]:1"] {
            let mistakes = read(&format!("listen = '{address}'")).mistakes();
            assert!(matches!(&mistakes[..], [one] if one.contains("authentication")), "{mistakes:?}");
        }
        assert!(Address::parse("[::ffff:127.0.0.1]:1").is_ok());
        for wrong in ["9780", "unix:api.sock", "example.org:80", "http://127.0.0.1:1", ""] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
