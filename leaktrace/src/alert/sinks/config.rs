//! One sink as configured.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Deserialize;
use ureq::http::{HeaderName, HeaderValue, Uri};

/// Most headers of one webhook.
const MOST_HEADERS: usize = 32;

/// `[[alerts.sink]]`: exactly one place.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// What it is called in the log and in metrics.
    pub name: String,
    /// Address that alerts are sent to by POST.
    pub webhook: Option<Secret>,
    /// File whose first line is that address, read at each delivery.
    pub webhook_file: Option<PathBuf>,
    /// What is sent; JSON unless given.
    pub body: Option<Body>,
    /// Headers to be sent along.
    pub headers: BTreeMap<String, Secret>,
    /// Headers whose values are the first lines of files, read at each delivery.
    pub header_files: BTreeMap<String, PathBuf>,
    /// File with the certificates to trust, instead of the host's.
    pub certificates: Option<PathBuf>,
    /// Program and arguments; it gets the alert as JSON on standard input.
    pub command: Option<Vec<String>>,
    /// The syslog socket.
    pub syslog: Option<Socket>,
    /// The journal's socket.
    pub journal: Option<Socket>,
    /// File that gets one JSON object per line.
    pub file: Option<PathBuf>,
}

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Everything, as docs/alerts.md describes it.
    #[default]
    Json,
    /// `{"text": "..."}`, which chat systems accept.
    Chat,
}

/// Text that is not shown to anybody.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// `true`: where it usually is; a path: there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "true, or the path of a socket")]
pub enum Socket {
    /// Whether at all.
    Usual(bool),
    /// Where.
    At(PathBuf),
}

impl Socket {
    fn path(&self, usual: &str) -> Option<PathBuf> {
        match self {
            Self::Usual(wanted) => wanted.then(|| usual.into()),
            Self::At(path) => Some(path.clone()),
        }
    }
}

/// Where alerts go, as meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// By HTTP.
    Webhook {
        /// The address, or the file it is in.
        address: Value,
        /// What is sent.
        body: Body,
        /// Names and values.
        headers: Vec<(String, Value)>,
        /// What to trust instead of the host's certificates.
        certificates: Option<PathBuf>,
    },
    /// To a program's standard input.
    Command(Vec<String>),
    /// To a syslog daemon.
    Syslog(PathBuf),
    /// To the journal.
    Journal(PathBuf),
    /// To a file.
    File(PathBuf),
}

/// Text that is given, or lies in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Given.
    Given(Secret),
    /// The first line of a file.
    InFile(PathBuf),
}

impl SinkConfig {
    /// What is wrong with it, one sentence each.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.name.trim().is_empty() {
            mistakes.push("an alert sink has no name: give it one".to_owned());
        }
        match self.place() {
            Ok(place) => mistakes.extend(self.mistakes_in(&place)),
            Err(mistake) => mistakes.push(mistake),
        }
        mistakes
    }

    /// The place that is meant.
    ///
    /// # Errors
    /// One sentence: no place, or several.
    pub fn place(&self) -> Result<Place, String> {
        let mut places: Vec<(&str, Place)> = self.places();
        match (places.pop(), places.first()) {
            (Some((_, place)), None) => Ok(place),
            (Some((last, _)), Some((first, _))) => {
                Err(format!("alert sink \"{}\" has {first} and {last}: make a sink of each", self.name))
            }
            (None, _) => Err(format!(
                "alert sink \"{}\" goes nowhere: give it one of webhook, webhook_file, command, syslog = true, journal = true, file",
                self.name
            )),
        }
    }

    fn places(&self) -> Vec<(&'static str, Place)> {
        let webhook = |address| Place::Webhook {
            address,
            body: self.body.unwrap_or_default(),
            headers: self.all_headers(),
            certificates: self.certificates.clone(),
        };
        let syslog = self.syslog.as_ref().and_then(|socket| socket.path("/dev/log"));
        let journal = self.journal.as_ref().and_then(|socket| socket.path("/run/systemd/journal/socket"));
        let named = [
            self.webhook.clone().map(|address| ("webhook", webhook(Value::Given(address)))),
            self.webhook_file.clone().map(|file| ("webhook_file", webhook(Value::InFile(file)))),
            self.command.clone().map(|command| ("command", Place::Command(command))),
            syslog.map(|path| ("syslog", Place::Syslog(path))),
            journal.map(|path| ("journal", Place::Journal(path))),
            self.file.clone().map(|path| ("file", Place::File(path))),
        ];
        named.into_iter().flatten().collect()
    }

    fn all_headers(&self) -> Vec<(String, Value)> {
        let given = self.headers.iter().map(|(name, value)| (name.clone(), Value::Given(value.clone())));
        let in_files =
            self.header_files.iter().map(|(name, file)| (name.clone(), Value::InFile(file.clone())));
        given.chain(in_files).take(MOST_HEADERS).collect()
    }

    fn mistakes_in(&self, place: &Place) -> Vec<String> {
        let sink = format!("alert sink \"{}\"", self.name);
        let absolute = |what: &str, path: &PathBuf| {
            let told = format!("{sink}: {what} {} is relative: write an absolute path", path.display());
            (!path.is_absolute()).then_some(told)
        };
        let mut mistakes: Vec<String> = match place {
            Place::Webhook { address, headers, .. } => {
                return self.mistakes_in_webhook(&sink, address, headers);
            }
            Place::Command(words) => command(&sink, words).into_iter().collect(),
            Place::Syslog(path) | Place::Journal(path) => absolute("the socket", path).into_iter().collect(),
            Place::File(path) => absolute("the file", path).into_iter().collect(),
        };
        if self.has_something_of_a_webhook() {
            mistakes.push(format!(
                "{sink} has a body, headers or certificates, which only go with a webhook: take them out"
            ));
        }
        mistakes
    }

    fn has_something_of_a_webhook(&self) -> bool {
        let headers = !self.headers.is_empty() || !self.header_files.is_empty();
        headers || self.body.is_some() || self.certificates.is_some()
    }

    fn mistakes_in_webhook(&self, sink: &str, address: &Value, headers: &[(String, Value)]) -> Vec<String> {
        let mut mistakes: Vec<String> = match address {
            Value::Given(address) => wrong_address(&address.0).into_iter().collect(),
            Value::InFile(file) => relative("webhook_file", file).into_iter().collect(),
        };
        mistakes.extend(self.certificates.as_ref().and_then(|file| relative("certificates", file)));
        mistakes.extend(headers.iter().filter_map(|(name, value)| wrong_header(name, value)));
        if self.headers.len() + self.header_files.len() > MOST_HEADERS {
            mistakes.push(format!("more than {MOST_HEADERS} headers"));
        }
        mistakes.into_iter().map(|mistake| format!("{sink}: {mistake}")).collect()
    }
}

fn relative(what: &str, path: &PathBuf) -> Option<String> {
    (!path.is_absolute()).then(|| format!("{what} {} is relative: write an absolute path", path.display()))
}

fn command(sink: &str, words: &[String]) -> Option<String> {
    let Some(program) = words.first() else {
        return Some(format!("{sink} has an empty command: write [\"/path/of/program\", \"argument\"]"));
    };
    if words.iter().any(|word| word.contains('\0')) {
        return Some(format!("{sink}: the command has a character that no argument can have"));
    }
    let told = format!("{sink}: the program \"{program}\" is looked up nowhere: write its absolute path");
    (!program.starts_with('/')).then_some(told)
}

/// Why an address is none that can be posted to; the address itself may be secret and is not repeated.
pub fn wrong_address(address: &str) -> Option<String> {
    let Ok(uri) = address.parse::<Uri>() else {
        return Some("the webhook's address cannot be read: write one such as \"https://host/path\"".into());
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Some("the webhook's address begins with neither http:// nor https://".into());
    }
    let host = uri.host().unwrap_or_default();
    host.is_empty().then(|| "the webhook's address names no host".into())
}

fn wrong_header(name: &str, value: &Value) -> Option<String> {
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Some(format!("\"{name}\" is no name of a header"));
    }
    match value {
        Value::Given(value) => HeaderValue::from_str(&value.0)
            .is_err()
            .then(|| format!("the value of header \"{name}\" has characters that no header can have")),
        Value::InFile(file) => relative(&format!("the file of header \"{name}\""), file),
    }
}
