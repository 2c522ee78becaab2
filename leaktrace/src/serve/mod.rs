//! HTTP on loopback or a Unix socket: metrics, health, reports. It runs in a thread of its own and reads what the daemon last
//! published, so that no request ever waits for the daemon, nor the daemon for a request.

mod answer;
mod api;
pub mod config;
mod connections;
mod guard;
mod health;
mod listener;
mod metrics;
mod render;
mod shape;

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use thiserror::Error;
use tokio::sync::watch;

pub use config::ServeConfig;
pub use listener::ListenError;

pub use config::Address;

use self::{api::Api, listener::Listener};
use crate::watched::Published;

/// How long requests that are being answered get when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Why the API cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The configuration is not valid.
    #[error("{0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel has no thread or event queue to give.
    #[error("cannot start the thread of the API: {0}; look for limits on threads and open files")]
    Thread(#[from] io::Error),
}

/// A running server. Dropping it stops it.
pub struct Server {
    config: ServeConfig,
    published: Published,
    running: Option<Running>,
}

struct Running {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    addresses: Vec<Address>,
}

impl Server {
    /// Listens, and answers from what is published from then on.
    ///
    /// # Errors
    /// An address is wrong or taken, or there is no thread to be had.
    pub fn start(config: &ServeConfig, published: Published) -> Result<Self, ServeError> {
        let running = Some(Running::start(config, published.clone())?);
        Ok(Self { config: config.clone(), published, running })
    }

    /// Goes on with another configuration. It may name the same addresses, so the old one stops first; should the new one
    /// fail, the old one is taken up again.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn restart(&mut self, config: &ServeConfig) -> Result<(), ServeError> {
        self.end();
        match Running::start(config, self.published.clone()) {
            Ok(running) => {
                self.running = Some(running);
                self.config = config.clone();
                Ok(())
            }
            Err(error) => {
                self.running = Running::start(&self.config, self.published.clone()).ok();
                Err(error)
            }
        }
    }

    /// Where it listens: with the port that the kernel chose where port 0 was configured.
    pub fn addresses(&self) -> &[Address] {
        self.running.as_ref().map(|running| running.addresses.as_slice()).unwrap_or_default()
    }

    /// Stops; requests that are being answered get a moment.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

impl Running {
    fn start(config: &ServeConfig, published: Published) -> Result<Self, ServeError> {
        let mistake = config.mistakes().into_iter().next();
        mistake.map_or(Ok(()), |mistake| Err(ServeError::Config(mistake)))?;
        let addresses = config.listen.iter().map(|text| Address::parse(text).map_err(ServeError::Config));
        let bind = |address: Result<Address, ServeError>| Ok(Listener::bind(&address?)?);
        let listeners = addresses.map(bind).collect::<Result<Vec<Listener>, ServeError>>()?;
        let addresses = listeners.iter().map(Listener::address).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // For bodies that take long to make; they are bounded in number, see `render`.
            .max_blocking_threads(4)
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let api = Arc::new(Api::new(config, published));
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            runtime.block_on(connections::serve(listeners, api, stopped));
            runtime.shutdown_timeout(LAST_ANSWERS);
        })?;
        Ok(Self { stop, thread, addresses })
    }

    fn end(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the API panicked: this is a bug in leaktrace");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
