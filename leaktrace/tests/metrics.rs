//! The API and the metrics: a real server on loopback, asked as Prometheus, browsers and hostile clients ask.

mod harness;
mod sample_report;

use harness::{
    longest_wait,
    prometheus::{Prometheus, check_metrics},
};
use leaktrace::{
    alert::{Alert, AlertKind},
    report::{OutputFormat, fingerprint::SiteKey, model::Amount},
    serve::{Address, ServeConfig, ServeError, Server},
    verdict::{MemoryTrend, Shape, Trend, Verdict},
    watched::{
        CgroupReading, MemoryReading, Published, SessionInfo, State, Subject, SubjectKind, SubjectState,
        Suspect,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const SITE: SiteKey = SiteKey([7; 16]);

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// A state whose one subject leaks at one line.
fn state(at_unix_s: f64, survivors: u64) -> State {
    let verdict = Verdict {
        shape: Shape::GrowsSteadily,
        confidence: 0.97,
        bytes_per_hour: 3_600_000.0,
        share_of_growth: Some(0.9),
        ..Verdict::default()
    };
    let suspect = Suspect {
        site: SITE,
        line: "log.py:128 record".into(),
        survivors: Amount { bytes: survivors, blocks: survivors / 24 },
        verdict,
        stack: vec!["record (log.py:128)".into()],
    };
    let leading =
        Trend { over_s: 3600.0, bytes_per_hour: 3_600_000.0, confidence: 0.99, change_bytes: 3_600_000 };
    let cgroup = CgroupReading { current_bytes: 900, limit_bytes: Some(1000), ..CgroupReading::default() };
    let subject = SubjectState {
        subject: Subject {
            key: "cgroup:/system.slice/web.service".into(),
            kind: SubjectKind::Cgroup,
            name: "web".into(),
            pid: 42,
            ..Subject::default()
        },
        memory: MemoryReading {
            at_unix_s,
            anonymous_bytes: 1 << 20,
            cgroup: Some(cgroup),
            ..MemoryReading::default()
        },
        trend: MemoryTrend {
            trends: vec![leading],
            grows: true,
            leading: Some(leading),
            to_limit_s: Some(7200.0),
        },
        session: Some(SessionInfo { id: 1, began_unix_s: at_unix_s, ..SessionInfo::default() }),
        report: Some(Arc::new(sample_report::several())),
        suspects: vec![suspect],
        ..SubjectState::default()
    };
    let alert = Alert { kind: AlertKind::Suspect, sentence: "web leaks".into(), ..Alert::default() };
    State {
        at_unix_s,
        started_unix_s: at_unix_s - 60.0,
        interval_s: 10.0,
        subjects: vec![subject],
        alerts: vec![Arc::new(alert)],
        ..State::default()
    }
}

fn config(text: &str) -> ServeConfig {
    toml::from_str(text).expect("valid TOML")
}

/// A server on a port that the kernel chose.
fn serve(published: &Published) -> (Server, String) {
    let server = Server::start(&config("listen = '127.0.0.1:0'"), published.clone()).expect("it listens");
    let [Address::Tcp(address)] = server.addresses() else { panic!("one address") };
    let address = address.to_string();
    (server, address)
}

fn published(state: State) -> Published {
    let published = Published::default();
    published.set(state);
    published
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn read(mut stream: impl Read) -> Option<Self> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Some(Self { status, headers, body: bytes[end + 4..].to_vec() })
    }
}

/// Sends a head as it is.
fn ask(address: &str, head: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(longest_wait())).ok()?;
    stream.write_all(head.as_bytes()).ok()?;
    Answer::read(stream)
}

fn get(address: &str, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")).expect("an answer")
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + longest_wait();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it did not happen in time");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn health_is_told_with_the_reason() {
    let published = Published::default();
    let (_server, address) = serve(&published);
    let ill = get(&address, "/healthz");
    assert_eq!(ill.status, 503);
    assert_eq!(ill.json()["reasons"][0], "no memory has been looked at yet");
    published.set(state(now() + 1000.0, 1));
    let well = get(&address, "/healthz");
    assert_eq!((well.status, well.json()["status"].as_str()), (200, Some("ok")));
    assert_eq!(well.text().lines().count(), 1);
    published.set(state(now() - 1000.0, 1));
    assert_eq!(get(&address, "/healthz").status, 503);
}

#[test]
fn subjects_are_found_by_key_and_by_name() {
    let (_server, address) = serve(&published(state(now(), 4096)));
    let list = get(&address, "/api/v1/subjects").json();
    assert_eq!(list["subjects"][0]["key"], "cgroup:/system.slice/web.service");
    assert_eq!(list["subjects"][0]["worst"], "log.py:128 record");
    for name in ["web", "cgroup:%2Fsystem.slice%2Fweb.service"] {
        let subject = get(&address, &format!("/api/v1/subjects/{name}"));
        assert_eq!(subject.status, 200, "{name}");
        let subject = subject.json();
        assert_eq!(subject["suspects"][0]["site"], SITE.to_string());
        assert_eq!(subject["suspects"][0]["verdict"]["shape"], "grows_steadily");
        assert_eq!(subject["memory"]["cgroup"]["limit_bytes"], 1000);
    }
    assert_eq!(get(&address, "/api/v1/subjects/nobody").status, 404);
    assert_eq!(get(&address, "/api/v1/alerts").json()["alerts"][0]["sentence"], "web leaks");
    let state = get(&address, "/api/v1/state").json();
    assert_eq!((&state["subjects"], &state["growing"], &state["traced"]), (&1.into(), &1.into(), &1.into()));
}

#[test]
fn reports_are_the_ones_that_leaktrace_writes() {
    let (_server, address) = serve(&published(state(now(), 1)));
    for (name, format, kind) in [
        ("report", OutputFormat::Json, "application/json"),
        ("report.txt", OutputFormat::Text, "text/plain; charset=utf-8"),
        ("profile.pb.gz", OutputFormat::Pprof, "application/octet-stream"),
        ("flamegraph.svg", OutputFormat::Svg, "image/svg+xml"),
        ("stacks.folded", OutputFormat::Folded, "text/plain; charset=utf-8"),
    ] {
        let answer = get(&address, &format!("/api/v1/subjects/web/{name}"));
        let mut expected = Vec::new();
        format.write(&sample_report::several(), &mut expected).expect("written");
        assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, kind), "{name}");
        assert!(answer.body == expected, "{name}: {}", answer.text());
    }
    assert_eq!(get(&address, "/api/v1/subjects/web/leak.exe").status, 404);
    let mut untraced = state(now(), 1);
    untraced.subjects[0].report = None;
    let (_server, address) = serve(&published(untraced));
    let answer = get(&address, "/api/v1/subjects/web/report");
    assert_eq!(answer.status, 404);
    assert!(answer.json()["error"].as_str().is_some_and(|error| error.contains("has not been traced")));
}

#[test]
fn a_head_request_has_no_body() {
    let (_server, address) = serve(&published(state(now(), 1)));
    let answer =
        ask(&address, &format!("HEAD /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n")).expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}

#[test]
fn what_is_not_meant_for_us_is_refused_as_json() {
    let (_server, address) = serve(&published(state(now(), 1)));
    for (head, status) in [
        ("GET / HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n", 403),
        ("GET /metrics HTTP/1.1\r\nHost: 10.1.2.3:9780\r\n\r\n", 403),
        ("GET http://rebound.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        ("GET /metrics HTTP/1.0\r\n\r\n", 403),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        ("DELETE /api/v1/subjects/web HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("OPTIONS /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 405),
    ] {
        let answer = ask(&address, head).expect("an answer");
        assert_eq!(answer.status, status, "{head}");
        assert!(answer.json().is_object(), "{head}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[test]
fn heads_and_bodies_are_bounded() {
    let (_server, address) = serve(&published(state(now(), 1)));
    let refused = |head: &str| ask(&address, head).is_none_or(|answer| answer.status >= 400);
    assert!(refused(&format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000))));
    assert!(refused(&format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000))));
    assert!(refused(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(100))));
    assert!(refused("\u{0}\u{1}\u{2} nonsense\r\n\r\n"));
    // A body that never ends is not read: the answer comes at once.
    let answer = ask(&address, "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n");
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(get(&address, "/healthz").status, 200);
}

#[test]
fn those_who_connect_and_say_nothing_keep_nobody_out_for_long() {
    let (_server, address) = serve(&published(state(now(), 1)));
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&address).expect("connected")).collect();
    // They hold all places until their time is up; then it is our turn.
    assert_eq!(get(&address, "/healthz").status, 200);
    drop(silent);
}

#[test]
fn a_unix_socket_is_ours_alone_and_goes_with_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("api.sock");
    let config = config(&format!("listen = 'unix:{}'", path.display()));
    let published = published(state(now(), 1));
    // What a killed daemon leaves behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let server = Server::start(&config, published.clone()).expect("it listens");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
    let mut stream = UnixStream::connect(&path).expect("connected");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: whatever\r\n\r\n").expect("asked");
    assert_eq!(Answer::read(stream).expect("an answer").status, 200);

    let error = Server::start(&config, published.clone()).err().expect("it is in use").to_string();
    assert!(error.contains("somebody listens there already"), "{error}");
    server.stop();
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn a_port_that_is_taken_is_told() {
    let published = Published::default();
    let (_server, address) = serve(&published);
    let taken = config(&format!("listen = ['unix:/nonexistent/x', '{address}']"));
    assert!(matches!(Server::start(&taken, published.clone()), Err(ServeError::Listen(_))));
    let error =
        Server::start(&config(&format!("listen = '{address}'")), published.clone()).err().expect("taken");
    assert!(error.to_string().contains(&address), "{error}");
    let open = Server::start(&config("listen = '0.0.0.0:0'"), published).err().expect("refused");
    assert!(matches!(open, ServeError::Config(_)), "{open}");
}

#[test]
fn a_server_goes_on_at_the_same_address_with_another_configuration() {
    let published = published(state(now(), 1));
    let (mut server, address) = serve(&published);
    let changed = config(&format!("listen = '{address}'\nmax_suspects = 0"));
    server.restart(&changed).expect("it goes on");
    let text = get(&address, "/metrics").text();
    assert!(text.contains("leaktrace_omitted_suspects 1.0"), "{text}");
    let wrong = config("listen = 'unix:/nonexistent/api.sock'");
    assert!(server.restart(&wrong).is_err());
    assert_eq!(get(&address, "/healthz").status, 200, "the old one is taken up again");
    server.stop();
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn requests_that_come_all_at_once_are_all_answered() {
    let (_server, address) = serve(&published(state(now(), 1)));
    let answers: Vec<u16> = thread::scope(|scope| {
        let paths =
            ["/metrics", "/api/v1/subjects/web/flamegraph.svg", "/api/v1/subjects/web/report", "/healthz"];
        let asked: Vec<_> = (0..100)
            .map(|number| {
                scope.spawn({
                    let address = &address;
                    move || get(address, paths[number % 4]).status
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().expect("answered")).collect()
    });
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
}

#[test]
#[ignore = "needs promtool (Debian: prometheus); run by cargo xtask test"]
fn promtool_has_nothing_to_complain_about() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut state = state(now(), 1);
    state.subjects[0].subject.name = "a \"name\" with \\ and {x=\"y\"}\n# HELP".into();
    let (_server, address) = serve(&published(state));
    let older = get(&address, "/metrics");
    assert_eq!(older.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    check_metrics(&older.text(), directory.path()).expect("nothing to complain about");
    // The twin: it does complain.
    check_metrics("# TYPE requests counter\nrequests 1\n", directory.path()).expect_err("no help, no total");
}

/// The daemon's part: a state every so often, whose suspect has grown.
fn grow(published: &Published, end: &AtomicBool) {
    let mut survivors = 1_000_000;
    while !end.load(Ordering::Relaxed) {
        survivors += 1000;
        published.set(state(now(), survivors));
        sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs Prometheus (Debian: prometheus); run by cargo xtask test"]
fn prometheus_scrapes_and_a_query_gives_the_suspect_that_grows() {
    let published = published(state(now(), 1_000_000));
    let (_server, address) = serve(&published);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| grow(&published, &end));
        let found = query(&address);
        end.store(true, Ordering::Relaxed);
        found.expect("Prometheus finds it");
    });
}

fn query(address: &str) -> Result<(), String> {
    let prometheus = Prometheus::scraping(address)?;
    let value =
        |series: &serde_json::Value| series["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
    prometheus.await_query("up", |series| value(series) == Some(1.0))?;
    let growing = "topk(1, deriv(leaktrace_suspect_survivors_bytes[1m]))";
    let series = prometheus.await_query(growing, |series| value(series).is_some_and(|slope| slope > 0.0))?;
    let found = &series[0]["metric"];
    if found["line"] != "log.py:128 record" || found["site"] != SITE.to_string() || found["name"] != "web" {
        return Err(format!("another suspect: {found}"));
    }
    // What docs/api.md proposes as alerting rules.
    prometheus.await_query("leaktrace_subject_time_to_limit_seconds < 6 * 3600", |_| true)?;
    prometheus.await_query("leaktrace_suspect_verdict_info{verdict=\"grows_steadily\"}", |_| true)?;
    prometheus.await_query("rate(leaktrace_own_cpu_seconds_total[1m])", |_| true)?;
    Ok(())
}
