//! Alerts reach people: real listeners, programs, sockets and files are told, and what hangs or fails holds up nobody else.

mod harness;

use harness::{
    listener::{Listener, Reply},
    longest_wait,
};
use leaktrace::{
    alert::{Alert, AlertConfig, AlertKind, Sinks},
    report::{fingerprint::SiteKey, model::Amount},
    verdict::{Shape, Verdict},
    watched::{SinkState, Subject, Suspect},
};
use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn alert() -> Alert {
    let verdict = Verdict {
        shape: Shape::GrowsSteadily,
        confidence: 0.97,
        bytes_per_hour: 1_677_722.0,
        share_of_growth: Some(0.8),
        ..Verdict::default()
    };
    let suspect = Suspect {
        site: SiteKey([7; 16]),
        line: "log.py:128 record".into(),
        survivors: Amount { bytes: 4_041_312, blocks: 168_388 },
        verdict,
        stack: vec!["record (log.py:128)".into(), "<lambda> (app.py:3)".into()],
    };
    Alert {
        kind: AlertKind::ShareOfLimit,
        fingerprint: "near-limit|container:abc".into(),
        at_unix_s: 1_777_636_800.0,
        host: "host-1".into(),
        subject: Subject { key: "container:abc".into(), name: "web-1".into(), pid: 42, ..Subject::default() },
        sentence: "web-1 uses 93 % of its memory limit".into(),
        suspects: vec![suspect],
        see_more: vec!["leaktrace report --subject container:abc".into()],
        evidence: Some("/var/lib/leaktrace/evidence/1".into()),
        ..Alert::default()
    }
}

/// A configuration that is impatient, so that tests are short.
fn config(sinks: &str) -> AlertConfig {
    let text = format!("first_retry = '20ms'\nattempts = 3\ntimeout = '60s'\n{sinks}");
    let config: AlertConfig = toml::from_str(&text).expect("valid TOML");
    assert_eq!(config.mistakes(), Vec::<String>::new());
    config
}

fn start(sinks: &str) -> Sinks {
    Sinks::start(&config(sinks)).expect("sinks start")
}

fn webhook(listener: &Listener, more: &str) -> String {
    format!("[[sink]]\nname = 'hook'\nwebhook = '{}'\n{more}\n", listener.url("/T0PSECRET"))
}

/// Waits until no alert waits.
fn settled(sinks: &Sinks) -> Vec<SinkState> {
    wait_for(|| Some(sinks.health()).filter(|states| states.iter().all(|state| state.waiting == 0)))
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + longest_wait();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it did not happen in time");
        sleep(Duration::from_millis(10));
    }
}

fn state(states: &[SinkState]) -> (u64, u64, &str) {
    let [state] = states else { panic!("one sink: {states:?}") };
    (state.delivered, state.lost, state.last_error.as_deref().unwrap_or(""))
}

#[test]
fn a_webhook_gets_everything_as_json_with_the_headers_that_were_configured() {
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join("token");
    fs::write(&secret, "Bearer abc\n").expect("a file");
    let listener = Listener::start(&[Reply::status(204)]).expect("a listener");
    let headers = format!(
        "headers = {{ X-Team = 'memory' }}\nheader_files = {{ Authorization = '{}' }}",
        secret.display()
    );
    let sinks = start(&webhook(&listener, &headers));
    sinks.raise(&alert());
    assert_eq!(state(&settled(&sinks)), (1, 0, ""));
    let request = listener.requests().remove(0);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/T0PSECRET"));
    assert_eq!(request.headers["x-team"], "memory");
    assert_eq!(request.headers["authorization"], "Bearer abc");
    assert_eq!(request.headers["content-type"], "application/json");
    let body: serde_json::Value = serde_json::from_str(&request.body).expect("JSON");
    insta::assert_json_snapshot!(body);
}

#[test]
fn a_chat_gets_a_text() {
    let listener = Listener::start(&[Reply::status(200)]).expect("a listener");
    let sinks = start(&webhook(&listener, "body = 'chat'"));
    sinks.raise(&alert());
    let request = listener.await_requests(1).expect("a request").remove(0);
    let body: serde_json::Value = serde_json::from_str(&request.body).expect("JSON");
    insta::assert_snapshot!(body["text"].as_str().expect("a text"));
}

#[test]
fn what_fails_for_a_while_is_tried_again() {
    let asked = Reply::Status(429, vec![("Retry-After", "0".into())], "");
    let listener = Listener::start(&[Reply::status(500), asked, Reply::status(200)]).expect("a listener");
    let sinks = start(&webhook(&listener, ""));
    sinks.raise(&alert());
    let states = settled(&sinks);
    assert_eq!((state(&states).0, state(&states).1), (1, 0));
    assert_eq!(listener.requests().len(), 3);
}

#[test]
fn a_connection_that_is_closed_is_tried_again() {
    let listener = Listener::start(&[Reply::Close, Reply::status(200)]).expect("a listener");
    let sinks = start(&webhook(&listener, ""));
    sinks.raise(&alert());
    assert_eq!(state(&settled(&sinks)).0, 1);
    assert_eq!(listener.requests().len(), 2);
}

#[test]
fn attempts_are_bounded() {
    let listener = Listener::start(&[Reply::Status(503, Vec::new(), "down for \u{1b}[31m maintenance")])
        .expect("a listener");
    let sinks = start(&webhook(&listener, ""));
    sinks.raise(&alert());
    let states = settled(&sinks);
    let (delivered, lost, error) = state(&states);
    assert_eq!((delivered, lost, listener.requests().len()), (0, 1, 3));
    assert!(error.contains("503") && error.contains("maintenance") && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn what_makes_no_sense_to_repeat_is_not_repeated_and_secrets_are_not_told() {
    let listener =
        Listener::start(&[Reply::Status(404, Vec::new(), "no /T0PSECRET here")]).expect("a listener");
    let sinks = start(&webhook(&listener, ""));
    sinks.raise(&alert());
    let states = settled(&sinks);
    let (delivered, lost, error) = state(&states);
    assert_eq!((delivered, lost, listener.requests().len()), (0, 1, 1));
    assert!(
        error.contains("127.0.0.1")
            && error.contains("404")
            && error.contains("no /… here")
            && !error.contains("T0PSECRET"),
        "{error}"
    );
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = Listener::start(&[Reply::status(200)]).expect("a listener");
    let moved = Reply::Status(307, vec![("Location", elsewhere.url("/"))], "");
    let listener = Listener::start(&[moved]).expect("a listener");
    let sinks = start(&webhook(&listener, ""));
    sinks.raise(&alert());
    let states = settled(&sinks);
    assert_eq!((state(&states).1, elsewhere.requests().len()), (1, 0));
    assert!(state(&states).2.contains("redirect"), "{states:?}");
}

#[test]
fn a_webhook_that_hangs_delays_neither_other_sinks_nor_the_end() {
    let hanging = Listener::start(&[Reply::Hang]).expect("a listener");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("alerts.jsonl");
    let sinks =
        start(&format!("{}[[sink]]\nname = 'file'\nfile = '{}'", webhook(&hanging, ""), file.display()));
    sinks.raise(&alert());
    hanging.await_requests(1).expect("it was asked");
    sinks.raise(&alert());
    wait_for(|| (sinks.health()[1].delivered == 2).then_some(()));
    let lines = fs::read_to_string(&file).expect("a file");
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    // It would hang for a minute, and the listener hangs for as long as this test lasts.
    let states = sinks.stop(Duration::from_millis(50));
    assert_eq!((states[0].delivered, states[0].lost, states[0].waiting), (0, 2, 0));
    assert_eq!((states[1].delivered, states[1].lost), (2, 0));
    assert_eq!(hanging.requests().len(), 1);
}

#[test]
fn a_hanging_webhook_is_given_up_after_its_time() {
    let listener = Listener::start(&[Reply::Hang, Reply::status(200)]).expect("a listener");
    let mut config = config(&webhook(&listener, ""));
    config.timeout = leaktrace::setting::Time::seconds(2);
    // On a busy machine the answer may be late as well.
    config.attempts = 100;
    let sinks = Sinks::start(&config).expect("sinks start");
    sinks.raise(&alert());
    let states = settled(&sinks);
    assert_eq!(state(&states).0, 1);
    assert!(state(&states).2.contains("has not answered within 2 s"), "{states:?}");
}

#[test]
fn what_waits_is_bounded_and_what_was_dropped_is_counted() {
    let hanging = Listener::start(&[Reply::Hang]).expect("a listener");
    let sinks = start(&webhook(&hanging, ""));
    sinks.raise(&alert());
    hanging.await_requests(1).expect("it was asked");
    (0..299).for_each(|_| sinks.raise(&alert()));
    let health = sinks.health();
    assert_eq!((health[0].waiting, health[0].lost, health[0].delivered), (257, 43, 0));
}

#[test]
fn the_end_delivers_what_waits() {
    let listener = Listener::start(&[Reply::status(200)]).expect("a listener");
    let sinks = start(&webhook(&listener, ""));
    (0..5).for_each(|_| sinks.raise(&alert()));
    let states = sinks.stop(longest_wait());
    assert_eq!((states[0].delivered, states[0].lost, listener.requests().len()), (5, 0, 5));
}

#[test]
fn the_end_does_not_wait_for_the_next_attempt() {
    let listener = Listener::start(&[Reply::status(500)]).expect("a listener");
    let mut config = config(&webhook(&listener, ""));
    config.first_retry = leaktrace::setting::Time::seconds(100_000);
    config.attempts = 100;
    let sinks = Sinks::start(&config).expect("sinks start");
    sinks.raise(&alert());
    listener.await_requests(1).expect("it was asked");
    let states = sinks.stop(longest_wait());
    assert_eq!((states[0].lost, states[0].waiting, listener.requests().len() <= 2), (1, 0, true));
}

/// A script in a directory of its own.
fn script(text: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("script");
    let text = format!("#!/bin/sh\ncd '{}'\n{text}\n", directory.path().display());
    // Written by another process: whoever forks at this moment must not hold it open for writing when it is started.
    let mut tee =
        Command::new("tee").arg(&file).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("tee");
    tee.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    assert!(tee.wait().expect("tee ends").success());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
    let command = format!("[[sink]]\nname = 'page'\ncommand = ['{}', 'a b']", file.display());
    (directory, command)
}

#[test]
fn a_command_gets_the_alert_on_its_input_and_in_variables() {
    let (directory, command) =
        script(r#"cat > input; echo "$1 $LEAKTRACE_KIND $LEAKTRACE_NAME $LEAKTRACE_PID" > words"#);
    let sinks = start(&command);
    sinks.raise(&alert());
    assert_eq!(state(&settled(&sinks)), (1, 0, ""));
    let input = fs::read_to_string(directory.path().join("input")).expect("its input");
    let input: serde_json::Value = serde_json::from_str(&input).expect("JSON");
    assert_eq!(input["suspects"][0]["line"], "log.py:128 record");
    let words = fs::read_to_string(directory.path().join("words")).expect("its words");
    assert_eq!(words, "a b share_of_limit web-1 42\n");
}

#[test]
fn a_command_that_fails_is_tried_again() {
    let (directory, command) = script("echo >> tried; test $(wc -l < tried) -ge 3");
    let sinks = start(&command);
    sinks.raise(&alert());
    let states = settled(&sinks);
    assert_eq!((state(&states).0, state(&states).1), (1, 0));
    assert_eq!(fs::read_to_string(directory.path().join("tried")).expect("tried").lines().count(), 3);
}

#[test]
fn a_command_that_does_not_end_is_killed_with_all_that_it_has_started() {
    let (directory, command) = script("sleep 100000 & echo $! > child; wait");
    let mut config = config(&command);
    config.timeout = leaktrace::setting::Time::seconds(2);
    // On a busy machine its time may be up before it has started anything.
    config.attempts = 100;
    let sinks = Sinks::start(&config).expect("sinks start");
    sinks.raise(&alert());
    let written =
        || fs::read_to_string(directory.path().join("child")).ok().filter(|text| text.ends_with('\n'));
    let child = wait_for(written);
    wait_for(|| has_ended(child.trim()).then_some(()));
    wait_for(|| {
        sinks.health()[0].last_error.as_ref().is_some_and(|error| error.contains("was killed")).then_some(())
    });
}

fn has_ended(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat"));
    status.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

fn socket(directory: &Path) -> (UnixDatagram, String) {
    let path = directory.join("socket");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(longest_wait())).expect("a time limit");
    (socket, path.display().to_string())
}

fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 256 * 1024];
    let length = socket.recv(&mut bytes).expect("a message");
    bytes.truncate(length);
    bytes
}

#[test]
fn syslog_gets_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, path) = socket(directory.path());
    let sinks = start(&format!("[[sink]]\nname = 'log'\nsyslog = '{path}'"));
    sinks.raise(&alert());
    let line = String::from_utf8(receive(&socket)).expect("text");
    assert!(line.starts_with("<27>May  1 12:00:00 leaktrace["), "{line}");
    assert!(line.contains("web-1 uses 93 %") && line.contains("log.py:128 record holds 3.9 MiB"), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[test]
fn the_journal_gets_fields_that_can_be_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, path) = socket(directory.path());
    let sinks = start(&format!("[[sink]]\nname = 'journal'\njournal = '{path}'"));
    sinks.raise(&alert());
    let fields = fields(&receive(&socket));
    let value = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    assert_eq!(value("PRIORITY"), Some("3"));
    assert_eq!(value("SYSLOG_IDENTIFIER"), Some("leaktrace"));
    assert_eq!(value("LEAKTRACE_SUBJECT"), Some("container:abc"));
    assert_eq!(value("LEAKTRACE_SITES"), Some("07070707070707070707070707070707"));
    assert!(value("MESSAGE").is_some_and(|message| message.contains("web-1 uses 93 %")), "{fields:?}");
}

/// As the journal reads them: `NAME\n`, eight bytes of length, the value, `\n`.
fn fields(mut message: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some(end) = message.iter().position(|byte| *byte == b'\n') {
        let name = String::from_utf8_lossy(&message[..end]).into_owned();
        let length = u64::from_le_bytes(message[end + 1..end + 9].try_into().expect("a length"));
        let value = &message[end + 9..end + 9 + usize::try_from(length).expect("a length")];
        fields.push((name, String::from_utf8_lossy(value).into_owned()));
        message = message[end + 9 + value.len()..].strip_prefix(b"\n").expect("the end of a field");
    }
    fields
}

#[test]
fn a_log_daemon_that_is_restarted_misses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let mut config = config(&format!("[[sink]]\nname = 'log'\nsyslog = '{}'", path.display()));
    config.attempts = 100;
    let sinks = Sinks::start(&config).expect("sinks start");
    sinks.raise(&alert());
    wait_for(|| sinks.health()[0].last_error.clone());
    let (socket, _) = socket(directory.path());
    assert!(!receive(&socket).is_empty());
}

#[test]
fn a_file_that_is_rotated_is_begun_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, old) = (directory.path().join("alerts.jsonl"), directory.path().join("alerts.jsonl.1"));
    let sinks = start(&format!("[[sink]]\nname = 'file'\nfile = '{}'", file.display()));
    sinks.raise(&alert());
    settled(&sinks);
    fs::rename(&file, &old).expect("rotated");
    sinks.raise(&alert());
    settled(&sinks);
    let lines = |file: &Path| fs::read_to_string(file).expect("readable").lines().count();
    assert_eq!((lines(&file), lines(&old)), (1, 1));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_disk_that_is_full_is_an_error_and_not_the_end() {
    let sinks = start("[[sink]]\nname = 'file'\nfile = '/dev/full'");
    sinks.raise(&alert());
    let states = settled(&sinks);
    assert_eq!((state(&states).0, state(&states).1), (0, 1));
    assert!(state(&states).2.contains("/dev/full: No space left"), "{states:?}");
}

/// A server with a certificate that nobody trusts who was not told to.
struct SecureServer {
    child: Child,
    port: u16,
    directory: TempDir,
}

/// Answers every POST with 200 and appends what came to a file; says its port first.
const SECURE_SERVER: &str = r"
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        open('bodies', 'ab').write(body + b'\n')
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('server.pem', 'server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
open('port.part', 'w').write(str(server.server_port))
import os
os.rename('port.part', 'port')
server.serve_forever()
";

impl SecureServer {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let openssl = |arguments: &str| {
            let output =
                Command::new("openssl").args(arguments.split(' ')).current_dir(directory.path()).output();
            let output = output.expect("openssl must be installed (Debian: openssl)");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=authority -keyout ca.key -out ca.pem -days 2",
        );
        openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        );
        fs::write(directory.path().join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
            .expect("a file");
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        );
        let child = Command::new("python3").args(["-c", SECURE_SERVER]).current_dir(directory.path()).spawn();
        let child = child.expect("python3 must be installed");
        let port = wait_for(|| fs::read_to_string(directory.path().join("port")).ok()?.parse().ok());
        Self { child, port, directory }
    }

    fn sink(&self, more: &str) -> String {
        format!("[[sink]]\nname = 'hook'\nwebhook = 'https://localhost:{}/in'\n{more}\n", self.port)
    }

    fn bodies(&self) -> usize {
        fs::read_to_string(self.directory.path().join("bodies")).map_or(0, |text| text.lines().count())
    }
}

impl Drop for SecureServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_is_told_only_if_its_certificate_is_trusted() {
    let server = SecureServer::start();
    let sinks = start(&server.sink(""));
    sinks.raise(&alert());
    let states = settled(&sinks);
    assert_eq!((state(&states).1, server.bodies()), (1, 0), "{states:?}");
    assert!(state(&states).2.to_lowercase().contains("certificate"), "{states:?}");

    let trusted = format!("certificates = '{}'", server.directory.path().join("ca.pem").display());
    let sinks = start(&server.sink(&trusted));
    sinks.raise(&alert());
    let states = settled(&sinks);
    assert_eq!((state(&states).0, server.bodies()), (1, 1), "{states:?}");
}
