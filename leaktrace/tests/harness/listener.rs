//! A real HTTP listener on loopback that says what it is told to say, and keeps what it was told.

use super::{Outcomes, longest_wait};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Instant,
};

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, headers and body.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// Nothing is said until the test ends.
    Hang,
    /// The connection is closed without a word.
    Close,
}

impl Reply {
    /// Just a status.
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new(), "")
    }
}

/// A request that came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// By lower-case names.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// See the module. Each request gets the next reply; all after the last get that.
pub struct Listener {
    pub address: SocketAddr,
    heard: Arc<Heard>,
    /// Dropped at the end: who hangs waits for that.
    _end: Sender<()>,
}

#[derive(Default)]
struct Heard {
    requests: Mutex<Vec<Request>>,
    more: Condvar,
}

impl Listener {
    /// Listens from now on.
    pub fn start(replies: &[Reply]) -> Outcomes<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("listener: {error}"))?;
        let address = listener.local_addr().map_err(|error| format!("listener: {error}"))?;
        let heard = Arc::new(Heard::default());
        let (end, ended) = channel();
        let (theirs, replies) = (Arc::clone(&heard), replies.to_vec());
        thread::spawn(move || answer_all(&listener, &theirs, &replies, ended));
        Ok(Self { address, heard, _end: end })
    }

    /// Address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What has come so far.
    pub fn requests(&self) -> Vec<Request> {
        self.heard.requests.lock().expect("no listener panics").clone()
    }

    /// Waits for that many requests.
    pub fn await_requests(&self, number: usize) -> Outcomes<Vec<Request>> {
        let until = Instant::now() + longest_wait();
        let mut requests = self.heard.requests.lock().expect("no listener panics");
        while requests.len() < number {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{} of {number} requests came: {requests:?}", requests.len()));
            }
            requests = self.heard.more.wait_timeout(requests, left).expect("no listener panics").0;
        }
        Ok(requests.clone())
    }
}

fn answer_all(listener: &TcpListener, heard: &Arc<Heard>, replies: &[Reply], ended: Receiver<()>) {
    let ended = Arc::new(Mutex::new(ended));
    for (number, stream) in listener.incoming().flatten().enumerate() {
        let reply = replies.get(number).or(replies.last()).cloned().unwrap_or(Reply::Close);
        let (heard, ended) = (Arc::clone(heard), Arc::clone(&ended));
        thread::spawn(move || {
            let Some(request) = read(&stream) else { return };
            heard.requests.lock().expect("no listener panics").push(request);
            heard.more.notify_all();
            answer(stream, &reply, &ended);
        });
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request { method: words.next()?, path: words.next()?, ..Request::default() };
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = request.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Some(request)
}

fn answer(mut stream: TcpStream, reply: &Reply, ended: &Mutex<Receiver<()>>) {
    match reply {
        Reply::Close => {}
        Reply::Hang => drop(ended.lock().map(|ended| ended.recv())),
        Reply::Status(status, headers, body) => {
            let headers: String =
                headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length = body.len();
            // Whoever does not want the answer any more may be gone.
            let _ = write!(
                stream,
                "HTTP/1.1 {status} Said\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    }
}
