// SPDX-License-Identifier: GPL-3.0-or-later
//! From a machine's name to a connected socket: the address that answers first wins.
//!
//! If an address does not answer within a moment, the next one is tried beside it (RFC 8305). So an address that
//! swallows packets, as IPv6 does in many networks, costs only that moment.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::connect::check_wanted;
use super::session::SharedSession;
use crate::ground::error::{Error, ErrorKind, IoContext, Result, in_words};

/// How long an address may take to answer before the next one is tried beside it.
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// A connected socket, and the address at its other end.
pub struct Connected {
    pub socket: OwnedFd,
    pub address: IpAddr,
    /// Whether it is the resolver's first address.
    pub is_first: bool,
}

/// Connects to the machine of `link`, before `deadline`. Tries the remembered address first, if it is still valid.
pub fn open(link: &SharedSession, deadline: Instant) -> Result<Connected> {
    race(link, look_up(&link.machine.name, link.machine.port)?, deadline)
}

fn race(link: &SharedSession, mut addresses: Vec<SocketAddr>, deadline: Instant) -> Result<Connected> {
    let first = addresses.first().map(SocketAddr::ip);
    addresses.sort_by_key(|address| Some(address.ip()) != link.remembered);
    let mut queue = addresses.into_iter();
    let mut trials: Vec<(OwnedFd, SocketAddr)> = Vec::new();
    let (mut next_start, mut failure) = (Instant::now(), Errno::HOSTUNREACH);
    loop {
        check_wanted(link)?;
        let now = Instant::now();
        if now >= deadline {
            return Err(unreachable(link, Errno::TIMEDOUT));
        }
        while trials.is_empty() || now >= next_start {
            let Some(address) = queue.next() else { break };
            match start(link, address)? {
                Ok(socket) => {
                    trials.push((socket, address));
                    next_start = now + NEXT_ADDRESS_DELAY;
                }
                Err(error) => failure = error,
            }
        }
        if trials.is_empty() {
            return Err(unreachable(link, failure));
        }
        let mut until = deadline;
        if queue.len() > 0 {
            until = until.min(next_start);
        }
        let mut watched: Vec<_> = trials.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::OUT)).collect();
        link.wake.sleep_beside(&mut watched, Some(until))?;
        let mut index = 0;
        while let Some((socket, address)) = trials.get(index) {
            match state(socket.as_fd()) {
                Ok(false) => index += 1,
                Ok(true) => {
                    let (address, is_first) = (address.ip(), Some(address.ip()) == first);
                    let socket = trials.swap_remove(index).0;
                    let _ = sockopt::set_tcp_nodelay(&socket, true);
                    return Ok(Connected { socket, address, is_first });
                }
                Err(error) => {
                    failure = error;
                    trials.swap_remove(index);
                    next_start = Instant::now();
                }
            }
        }
    }
}

/// Returns the addresses of `name`, best first: a host name or an address. IPv6 may have brackets and a zone.
fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let bare = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(name);
    // This can take longer than it should, but it holds up only this thread: see `Session::abort`.
    let found = (bare, port)
        .to_socket_addrs()
        .io_context(ErrorKind::Unavailable, || format!("looking up the address of '{name}'"))
        .map_err(|error| error.hint("check the name in the machine file, and this machine's name service"))?;
    Ok(found.collect())
}

/// Starts to connect. `Err` ends all attempts; `Ok(Err(_))` means that only this address has failed.
fn start(link: &SharedSession, address: SocketAddr) -> Result<Result<OwnedFd, Errno>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match socket_with(family, SocketType::STREAM, flags, None) {
        // IPv6 may be switched off on this host, although the machine has an IPv6 address.
        Err(Errno::AFNOSUPPORT) => return Ok(Err(Errno::AFNOSUPPORT)),
        made => made.io_context(ErrorKind::Exhausted, || format!("making a socket for '{}'", link.machine.name))?,
    };
    Ok(match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    })
}

/// Returns whether the socket is connected, or the error with which connecting failed.
fn state(socket: std::os::fd::BorrowedFd<'_>) -> Result<bool, Errno> {
    sockopt::socket_error(socket)??;
    Ok(rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some()))
}

fn unreachable(link: &SharedSession, failure: Errno) -> Error {
    let (name, port) = (&link.machine.name, link.machine.port);
    let why = match failure {
        Errno::TIMEDOUT => "no answer in time".to_string(),
        other => in_words(&other.into()),
    };
    Error::new(ErrorKind::Unavailable, format!("cannot connect to '{name}', port {port}: {why}"))
        .hint(format!("check that '{name}' is up and that its SSH server listens on port {port}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::ssh::tests::machine_at;

    const LONG: Duration = Duration::from_secs(30);

    /// Returns an address that swallows packets: a listener whose queue is full. The other values keep it full.
    fn swallowing() -> (SocketAddr, OwnedFd, Vec<OwnedFd>) {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fillers = (0..4).map(|_| socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap());
        let fillers = fillers.inspect(|filler| assert!(connect(filler, &address).is_err())).collect();
        (address, socket, fillers)
    }

    fn link(remembered: Option<IpAddr>) -> SharedSession {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        SharedSession::new(&machine_at(22, key, "/nowhere".into()), remembered).unwrap()
    }

    #[test]
    fn an_address_that_swallows_packets_costs_a_moment() {
        let (swallows, _socket, _fillers) = swallowing();
        let answers = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
        let listener = TcpListener::bind(answers).unwrap();
        let begun = Instant::now();
        let connected = race(&link(None), vec![swallows, answers], begun + LONG).unwrap();
        assert!((NEXT_ADDRESS_DELAY..LONG / 3).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert_eq!((connected.address, connected.is_first), (answers.ip(), false));
        // The address is remembered from the last time, and is tried first.
        let begun = Instant::now();
        let connected = race(&link(Some(answers.ip())), vec![swallows, answers], begun + LONG).unwrap();
        assert_eq!(connected.address, answers.ip());
        drop((listener, connected));
    }

    #[test]
    fn an_address_that_refuses_costs_nothing_and_nothing_that_answers_is_an_error() {
        let refuses = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let begun = Instant::now();
        race(&link(None), vec![refuses, listener.local_addr().unwrap()], begun + LONG).unwrap();
        let error = race(&link(None), vec![refuses], begun + LONG).err().unwrap();
        assert!(error.to_string().contains("Connection refused"), "{error}");
        let (swallows, _socket, _fillers) = swallowing();
        let error = race(&link(None), vec![swallows], Instant::now() + NEXT_ADDRESS_DELAY).err().unwrap();
        assert!(error.to_string().contains("no answer in time"), "{error}");
    }

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        for (name, address) in [
            ("::1", "[::1]:2222"),
            ("[::1]", "[::1]:2222"),
            ("fe80::1%lo", "[fe80::1%1]:2222"),
            ("[fe80::1%lo]", "[fe80::1%1]:2222"),
            ("127.0.0.1", "127.0.0.1:2222"),
        ] {
            assert_eq!(look_up(name, 2222).unwrap()[0].to_string(), address, "{name}");
        }
        assert!(look_up("[no address", 22).is_err());
    }
}
