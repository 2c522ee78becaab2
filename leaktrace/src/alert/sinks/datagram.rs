//! Datagrams to sockets of the host's log daemons.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use super::failure::Failure;

/// Sends one datagram; waits for room in the other side's queue for at most `limit`.
pub(super) fn send(path: &Path, bytes: &[u8], limit: Duration) -> Result<(), Failure> {
    let send = || {
        let socket = UnixDatagram::unbound()?;
        // Zero would mean "for ever".
        socket.set_write_timeout(Some(limit.max(Duration::from_millis(1))))?;
        socket.send_to(bytes, path)
    };
    let sent =
        send().map_err(|error| Failure::of_io(&format!("cannot send to {}", path.display()), &error))?;
    if sent < bytes.len() {
        return Err(Failure::later(format!("{} took only a part of the message", path.display())));
    }
    Ok(())
}
