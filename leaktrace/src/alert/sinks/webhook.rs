//! Webhooks: one POST per alert. Redirects are not followed, since they could carry an alert and its secrets to another host;
//! addresses are shown by their host only, since many hold a secret in their path.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ureq::{
    Agent, Body as Answer,
    http::{Response, StatusCode, Uri, header::RETRY_AFTER},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    Body, Deliver,
    config::{Value, wrong_address},
    failure::Failure,
};
use crate::{
    alert::{Alert, chat, json},
    report::human::{duration, printable},
};

/// Where distributions keep the certificates that they trust.
const TRUSTED: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Most bytes of a file that holds a header or an address.
const MOST_OF_A_VALUE: u64 = 64 * 1024;

/// Most bytes of certificates.
const MOST_OF_CERTIFICATES: u64 = 16 * 1024 * 1024;

/// Most bytes of an answer that are looked at.
const MOST_OF_AN_ANSWER: u64 = 300;

/// See the module.
pub(super) struct Webhook {
    pub address: Value,
    pub body: Body,
    pub headers: Vec<(String, Value)>,
    pub certificates: Option<PathBuf>,
    pub limit: Duration,
}

impl Deliver for Webhook {
    fn deliver(&mut self, alert: &Alert) -> Result<(), Failure> {
        let address = text(&self.address)?;
        if let Some(mistake) = wrong_address(&address) {
            return Err(Failure::later(mistake));
        }
        let uri: Uri = address.parse().map_err(|_| Failure::later("the webhook's address cannot be read"))?;
        let host =
            uri.authority().map_or("", |authority| authority.as_str().rsplit('@').next().unwrap_or(""));
        let headers = self.headers.iter().map(|(name, value)| Ok((name.as_str(), text(value)?)));
        let headers: Vec<(&str, String)> = headers.collect::<Result<_, Failure>>()?;
        let sent = self.send(&uri, &headers, self.trusted(&uri)?, alert);
        let answer = sent.map_err(|error| unanswered(host, self.limit, &error))?;
        judge(&uri, host, answer)
    }
}

impl Webhook {
    fn send(
        &self,
        uri: &Uri,
        headers: &[(&str, String)],
        trusted: RootCerts,
        alert: &Alert,
    ) -> Result<Response<Answer>, ureq::Error> {
        let mut request = agent(uri, trusted, self.limit).post(uri.clone()).content_type("application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send(match self.body {
            Body::Json => json::line(alert),
            Body::Chat => chat::body(alert),
        })
    }

    fn trusted(&self, uri: &Uri) -> Result<RootCerts, Failure> {
        if uri.scheme_str() != Some("https") {
            return Ok(RootCerts::WebPki);
        }
        let Some(file) = &self.certificates else { return Ok(trusted_by_host()) };
        let pem = read(file, MOST_OF_CERTIFICATES)
            .map_err(|error| Failure::of_io(&format!("cannot read {}", file.display()), &error))?;
        Ok(RootCerts::from(certificates(&pem)))
    }
}

/// Made for each delivery: certificates that were replaced count, and none of it stays in memory for days.
fn agent(uri: &Uri, trusted: RootCerts, limit: Duration) -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(limit))
        .max_redirects(0)
        .http_status_as_error(false)
        .max_response_header_size(64 * 1024)
        .user_agent(concat!("leaktrace/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(trusted).build());
    // A proxy has another loopback.
    let config = if is_loopback(uri) { config.proxy(None) } else { config };
    Agent::new_with_config(config.build())
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host's certificates; those that are built in where it has none.
fn trusted_by_host() -> RootCerts {
    let named = std::env::var_os("SSL_CERT_FILE").map(Into::into);
    let mut files = named.into_iter().chain(TRUSTED.map(Into::into));
    let read = |file: PathBuf| read(&file, MOST_OF_CERTIFICATES).ok();
    let certificates =
        files.find_map(|file| Some(certificates(&read(file)?)).filter(|found| !found.is_empty()));
    certificates.map_or(RootCerts::WebPki, RootCerts::from)
}

fn certificates(pem: &[u8]) -> Vec<ureq::tls::Certificate<'static>> {
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    parse_pem(pem).filter_map(certificate).collect()
}

fn text(value: &Value) -> Result<String, Failure> {
    let file = match value {
        Value::Given(secret) => return Ok(secret.0.clone()),
        Value::InFile(file) => file,
    };
    let read = read(file, MOST_OF_A_VALUE)
        .map_err(|error| Failure::of_io(&format!("cannot read {}", file.display()), &error))?;
    let text = String::from_utf8_lossy(&read);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn read(file: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unanswered(host: &str, limit: Duration, error: &ureq::Error) -> Failure {
    Failure::later(match error {
        ureq::Error::Timeout(_) => {
            format!("{host} has not answered within {}", duration(limit.as_secs_f64()))
        }
        ureq::Error::HostNotFound => format!("{host} is not known: its name cannot be resolved"),
        // Its text would be the address.
        ureq::Error::BadUri(_) => "the webhook's address cannot be read".to_owned(),
        ureq::Error::Io(error) => format!("{host} cannot be told: {error}"),
        error => format!("{host} cannot be told: {}", printable(&error.to_string())),
    })
}

fn judge(uri: &Uri, host: &str, mut answer: Response<Answer>) -> Result<(), Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let after = answer.headers().get(RETRY_AFTER).and_then(|text| text.to_str().ok()?.trim().parse().ok());
    let said = said(uri, answer.body_mut());
    if status.is_redirection() {
        return Err(Failure::never(format!(
            "{host} answers {status}: redirects are not followed, name the address that it redirects to"
        )));
    }
    let sentence = format!("{host} answers {status}{said}");
    Err(match after {
        _ if is_hopeless(status) => Failure::never(sentence),
        Some(seconds) => Failure::after(Duration::from_secs(seconds), sentence),
        None => Failure::later(sentence),
    })
}

/// The request itself is wrong: the same would be answered the same.
fn is_hopeless(status: StatusCode) -> bool {
    let patient = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !patient.contains(&status)
}

/// What the other side says about it, briefly; not what it repeats of the address.
fn said(uri: &Uri, body: &mut Answer) -> String {
    let mut bytes = Vec::new();
    // What came before an error is worth showing as well.
    let _ = body.as_reader().take(MOST_OF_AN_ANSWER).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let secret = uri.path().trim_matches('/');
    let harmless = |line: &str| if secret.is_empty() { line.to_owned() } else { line.replace(secret, "…") };
    line.map(|line| format!(": {}", printable(&harmless(line)))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_to_repeat_is_not_repeated() {
        for (status, hopeless) in
            [(400, true), (401, true), (404, true), (408, false), (429, false), (500, false)]
        {
            assert_eq!(is_hopeless(StatusCode::from_u16(status).expect("a status")), hopeless, "{status}");
        }
    }

    #[test]
    fn loopback_needs_no_proxy() {
        for (address, loopback) in [
            ("http://127.0.0.1:1/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://a.b/", false),
        ] {
            assert_eq!(is_loopback(&address.parse().expect("an address")), loopback, "{address}");
        }
    }
}
