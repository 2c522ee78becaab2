//! Sockets to listen on.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
};

use thiserror::Error;

use super::config::Address;

/// Who may connect: the daemon's user and group.
const MODE: u32 = 0o660;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// TCP.
    #[error("cannot listen on {address}: {source}; name another address under serve.listen")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Unix.
    #[error("cannot listen on {}: {source}; name another path under serve.listen", .path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A socket that listens.
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    pub(super) fn bind(address: &Address) -> Result<Self, ListenError> {
        match address {
            Address::Tcp(address) => tcp(*address)
                .map(|(listener, address)| Self::Tcp(listener, address))
                .map_err(|source| ListenError::Tcp { address: *address, source }),
            Address::Unix(path) => unix(path)
                .map(|(listener, file)| Self::Unix(listener, file))
                .map_err(|source| ListenError::Unix { path: path.clone(), source }),
        }
    }

    pub(super) fn address(&self) -> Address {
        match self {
            Self::Tcp(_, address) => Address::Tcp(*address),
            Self::Unix(_, file) => Address::Unix(file.path.clone()),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The socket gets its name last: from then on it has the right mode, and what an earlier daemon left is replaced.
fn unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    refuse_if_in_use(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", process::id()));
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    let named = fs::set_permissions(&beside, fs::Permissions::from_mode(MODE))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = named {
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    let inode = fs::symlink_metadata(path)?.ino();
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

fn refuse_if_in_use(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            Err(io::Error::other("a file of that name is no socket"))
        }
        Ok(_) if UnixStream::connect(path).is_ok() => Err(io::Error::other("somebody listens there already")),
        Ok(_) => Ok(()),
    }
}

/// Removes a socket's name when it is not listened on any more.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
