//! Connections: how many, how long, how large their heads may be. One request each, so that none is held open for nothing.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    api::{self, Api},
    guard::Names,
    listener::Listener,
};

/// Most connections at once, over all addresses; others wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 32;

/// For the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// For a connection in all: a reader that takes no bytes must not keep a place for ever.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Most bytes of a head.
const MOST_OF_A_HEAD: usize = 16 * 1024;

/// Most headers.
const MOST_HEADERS: usize = 64;

/// Serves until told to stop.
pub(super) async fn serve(listeners: Vec<Listener>, api: Arc<Api>, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(listen(listener, Arc::clone(&api), Arc::clone(&places)));
    }
    // An error means that whoever could tell us to stop is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
    accepting.shutdown().await;
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = timeout(super::LAST_ANSWERS, places.acquire_many(all)).await;
}

async fn listen(listener: Listener, api: Arc<Api>, places: Arc<Semaphore>) {
    let ended = match listener {
        Listener::Tcp(listener, _) => tcp(listener, api, places).await,
        Listener::Unix(listener, _file) => unix(listener, api, places).await,
    };
    if let Err(error) = ended {
        tracing::error!("the API stops listening on one of its addresses: {error}");
    }
}

async fn tcp(listener: std::net::TcpListener, api: Arc<Api>, places: Arc<Semaphore>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let names = Names::loopback(&api.hosts);
    let router = api::router(api, names);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, router.clone(), place))),
            Err(error) => refused(&error).await,
        }
    }
}

async fn unix(
    listener: std::os::unix::net::UnixListener,
    api: Arc<Api>,
    places: Arc<Semaphore>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let router = api::router(api, Names::Any);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, router.clone(), place))),
            Err(error) => refused(&error).await,
        }
    }
}

/// Too many open files, say: trying again at once would only burn CPU.
async fn refused(error: &io::Error) {
    tracing::debug!("a connection to the API could not be accepted: {error}");
    sleep(Duration::from_millis(100)).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    _place: OwnedSemaphorePermit,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MOST_OF_A_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection to the API failed: {error}"),
        Err(_) => tracing::debug!("a connection to the API took too long"),
    }
}
