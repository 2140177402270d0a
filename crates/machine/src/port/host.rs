//! [`Host`]: a stack built on smoltcp. It answers ARP, neighbour solicitations and ping, serves a text over HTTP,
//! echoes TCP and UDP, and can do each of these as a client.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpCidr};

use super::Port;

/// Bytes of a socket's buffers.
const BUFFER: usize = 1 << 16;
/// Connections that a service takes at one time.
const CONNECTIONS: usize = 4;
/// Frames that wait for the stack at most.
const WAITING_MAX: usize = 4096;
/// Time after which a question without an answer is asked again.
const AGAIN_NS: u64 = 1_000_000_000;
/// Number of pings.
const PING_IDENT: u16 = 0xeb;

/// What a host is made with.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Hardware address: that of its device.
    pub mac: [u8; 6],
    /// Largest packet without link header, bytes.
    pub mtu: usize,
    /// Addresses with the bits of their networks.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Gateway of everything else.
    pub gateway: Option<IpAddr>,
    /// What it serves over HTTP on port 80.
    pub http: Option<String>,
    /// Port of TCP and UDP on which it sends back what comes.
    pub echo: Option<u16>,
    /// Of its own choices, such as the first sequence number.
    pub seed: u64,
}

/// Something that a host does as a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sends so many echo requests, each after the answer to the one before.
    Ping {
        /// To whom (IPv4).
        to: IpAddr,
        /// How many.
        count: u16,
    },
    /// Sends bytes and waits for an answer.
    Ask {
        /// Whom.
        to: SocketAddr,
        /// Over TCP, to the end of the connection or as much as was sent; else UDP.
        tcp: bool,
        /// What.
        send: Vec<u8>,
    },
}

/// Why something that a host does cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// smoltcp's own words.
    #[error("the host cannot: {0}")]
    Stack(String),
    /// No IPv4.
    #[error("{0}: hosts ping IPv4 only")]
    Family(IpAddr),
}

/// An operation under way.
struct Running {
    op: Op,
    socket: SocketHandle,
    sent: usize,
    answers: u16,
    answer: Vec<u8>,
    /// When it asked last, without an answer yet.
    asked_ns: Option<u64>,
    done: bool,
}

/// The frames between stack and device.
#[derive(Default)]
struct Frames {
    received: VecDeque<Vec<u8>>,
    to_send: Vec<Vec<u8>>,
    mtu: usize,
}

/// A stack behind a device.
pub struct Host {
    frames: Frames,
    iface: Interface,
    sockets: SocketSet<'static>,
    http: Vec<SocketHandle>,
    /// The answer to a request.
    page: Vec<u8>,
    echo_port: Option<u16>,
    echo_tcp: Vec<SocketHandle>,
    echo_udp: Option<SocketHandle>,
    running: Option<Running>,
    next_port: u16,
}

impl Host {
    /// A host, at time 0.
    #[must_use]
    pub fn new(config: &HostConfig) -> Self {
        let mut frames = Frames { mtu: config.mtu, ..Frames::default() };
        let mut own = Config::new(HardwareAddress::Ethernet(EthernetAddress(config.mac)));
        own.random_seed = config.seed;
        let mut iface = Interface::new(own, &mut frames, Instant::ZERO);
        iface.update_ip_addrs(|addresses| {
            for (ip, len) in &config.addresses {
                // There is room for a few; more do not fit and are left out.
                let _ = addresses.push(IpCidr::new((*ip).into(), *len));
            }
        });
        match config.gateway {
            Some(IpAddr::V4(ip)) => drop(iface.routes_mut().add_default_ipv4_route(ip)),
            Some(IpAddr::V6(ip)) => drop(iface.routes_mut().add_default_ipv6_route(ip)),
            None => {}
        }
        let mut sockets = SocketSet::new(Vec::new());
        let page = config.http.as_ref().map_or_else(Vec::new, |text| {
            let len = text.len();
            format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{text}")
                .into_bytes()
        });
        let http = if config.http.is_some() { CONNECTIONS } else { 0 };
        let http = (0..http).map(|_| sockets.add(tcp_socket())).collect();
        let echo = if config.echo.is_some() { CONNECTIONS } else { 0 };
        let echo_tcp = (0..echo).map(|_| sockets.add(tcp_socket())).collect();
        let echo_udp = config.echo.map(|port| {
            let mut socket = udp_socket();
            // A port of 0 cannot be bound; the scene has checked that.
            let _ = socket.bind(port);
            sockets.add(socket)
        });
        Self {
            frames,
            iface,
            sockets,
            http,
            page,
            echo_port: config.echo,
            echo_tcp,
            echo_udp,
            running: None,
            next_port: 49152,
        }
    }

    /// Begins to do something; what was under way ends.
    ///
    /// # Errors
    ///
    /// If the stack cannot.
    pub fn begin(&mut self, op: &Op) -> Result<(), OpError> {
        self.end();
        self.next_port = self.next_port.checked_add(1).unwrap_or(49152);
        let port = self.next_port;
        let stack = |e: &dyn std::fmt::Display| OpError::Stack(e.to_string());
        let socket = match op {
            Op::Ping { to: IpAddr::V6(_), .. } => {
                let Op::Ping { to, .. } = op else { unreachable!("matched above") };
                return Err(OpError::Family(*to));
            }
            Op::Ping { .. } => {
                let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
                let mut socket = icmp::Socket::new(buffer(), buffer());
                socket.bind(icmp::Endpoint::Ident(PING_IDENT)).map_err(|e| stack(&e))?;
                self.sockets.add(socket)
            }
            Op::Ask { to, tcp: true, .. } => {
                let mut socket = tcp_socket();
                socket.connect(self.iface.context(), *to, port).map_err(|e| stack(&e))?;
                self.sockets.add(socket)
            }
            Op::Ask { .. } => {
                let mut socket = udp_socket();
                socket.bind(port).map_err(|e| stack(&e))?;
                self.sockets.add(socket)
            }
        };
        let op = op.clone();
        self.running = Some(Running {
            op,
            socket,
            sent: 0,
            answers: 0,
            answer: Vec::new(),
            asked_ns: None,
            done: false,
        });
        Ok(())
    }

    /// Whether what was begun is done, and what came back.
    #[must_use]
    pub fn answer(&self) -> Option<Vec<u8>> {
        self.running.as_ref().filter(|r| r.done).map(|r| r.answer.clone())
    }

    /// Gives up what is under way.
    pub fn end(&mut self) {
        if let Some(running) = self.running.take() {
            self.sockets.remove(running.socket);
        }
    }

    fn serve(&mut self) {
        for handle in &self.http {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                let _ = socket.listen(80);
            }
            // The end of the request's head, whatever it asks for.
            let whole = socket.recv(|bytes| match bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(at) => (at + 4, true),
                None => (0, false),
            });
            if whole == Ok(true) {
                let _ = socket.send_slice(&self.page);
                socket.close();
            }
        }
        for handle in &self.echo_tcp {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                let _ = socket.listen(self.echo_port.unwrap_or(7));
            }
            while socket.can_send() && socket.can_recv() {
                let Ok(bytes) = socket.recv(|bytes| (bytes.len(), bytes.to_vec())) else { break };
                let _ = socket.send_slice(&bytes);
            }
            if !socket.may_recv() && socket.may_send() {
                socket.close();
            }
        }
        if let Some(handle) = self.echo_udp {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
            while socket.can_send()
                && let Ok((bytes, from)) = socket.recv().map(|(b, m)| (b.to_vec(), m.endpoint))
            {
                let _ = socket.send_slice(&bytes, from);
            }
        }
    }

    fn go_on(&mut self, now_ns: u64) {
        let Some(running) = &mut self.running else { return };
        if running.done {
            return;
        }
        // A packet may be lost, the first one to a neighbour that is not known yet is: ask again, as ping does.
        running.asked_ns = running.asked_ns.filter(|asked| now_ns < asked + AGAIN_NS);
        match running.op.clone() {
            Op::Ping { to, count } => running.ping(self.sockets.get_mut(running.socket), to, count, now_ns),
            Op::Ask { tcp: true, send, .. } => running.ask_tcp(self.sockets.get_mut(running.socket), &send),
            Op::Ask { to, send, .. } => {
                running.ask_udp(self.sockets.get_mut(running.socket), to, &send, now_ns)
            }
        }
    }
}

impl Running {
    fn ping(&mut self, socket: &mut icmp::Socket<'_>, to: IpAddr, count: u16, now_ns: u64) {
        while let Ok((bytes, from)) = socket.recv() {
            let reply = Icmpv4Packet::new_checked(bytes)
                .ok()
                .and_then(|packet| Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok());
            if let Some(Icmpv4Repr::EchoReply { seq_no, .. }) = reply
                && seq_no == self.answers
                && IpAddr::from(from) == to
            {
                self.answers += 1;
                self.asked_ns = None;
            }
        }
        self.done = self.answers == count;
        if !self.done && self.asked_ns.is_none() && socket.can_send() {
            let request = Icmpv4Repr::EchoRequest {
                ident: PING_IDENT,
                seq_no: self.answers,
                data: b"earlybird 0123456789",
            };
            if let Ok(room) = socket.send(request.buffer_len(), to.into()) {
                request.emit(&mut Icmpv4Packet::new_unchecked(room), &ChecksumCapabilities::default());
                self.asked_ns = Some(now_ns);
            }
        }
    }

    fn ask_tcp(&mut self, socket: &mut tcp::Socket<'_>, send: &[u8]) {
        if socket.can_send() && self.sent < send.len() {
            self.sent += socket.send_slice(&send[self.sent..]).unwrap_or(0);
        }
        while socket.can_recv() {
            let Ok(bytes) = socket.recv(|bytes| (bytes.len(), bytes.to_vec())) else { break };
            self.answer.extend(bytes);
        }
        let ended = self.sent == send.len() && !socket.may_recv() && !self.answer.is_empty();
        // A service that echoes does not end by itself.
        if ended || self.answer == send {
            socket.close();
            self.done = true;
        }
    }

    fn ask_udp(&mut self, socket: &mut udp::Socket<'_>, to: SocketAddr, send: &[u8], now_ns: u64) {
        if self.asked_ns.is_none() && socket.can_send() {
            let sent = socket.send_slice(send, smoltcp::wire::IpEndpoint::from(to)).is_ok();
            self.asked_ns = sent.then_some(now_ns);
        }
        if let Ok((bytes, _)) = socket.recv() {
            self.answer = bytes.to_vec();
            self.done = true;
        }
    }
}

impl Port for Host {
    fn receive(&mut self, frame: &[u8]) {
        if self.frames.received.len() < WAITING_MAX {
            self.frames.received.push_back(frame.to_vec());
        }
    }

    fn poll(&mut self, now_ns: u64, send: &mut dyn FnMut(&[u8])) -> bool {
        let now = Instant::from_micros((now_ns / 1000) as i64);
        let had = !self.frames.received.is_empty();
        self.serve();
        self.go_on(now_ns);
        self.iface.poll(now, &mut self.frames, &mut self.sockets);
        self.serve();
        self.go_on(now_ns);
        self.iface.poll(now, &mut self.frames, &mut self.sockets);
        let sent = std::mem::take(&mut self.frames.to_send);
        sent.iter().for_each(|frame| send(frame));
        had || !sent.is_empty()
    }

    fn due_ns(&mut self, now_ns: u64) -> Option<u64> {
        let now = Instant::from_micros((now_ns / 1000) as i64);
        let delay = self.iface.poll_delay(now, &self.sockets)?;
        Some(now_ns + delay.total_micros() * 1000)
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    tcp::Socket::new(tcp::SocketBuffer::new(vec![0; BUFFER]), tcp::SocketBuffer::new(vec![0; BUFFER]))
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; BUFFER]);
    udp::Socket::new(buffer(), buffer())
}

/// A frame that was received.
struct Rx(Vec<u8>);

/// Room for a frame to send.
struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Frames {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Rx(frame), Tx(&mut self.to_send)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.to_send))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        // With the link header.
        caps.max_transmission_unit = self.mtu + 14;
        caps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8, http: Option<&str>) -> Host {
        Host::new(&HostConfig {
            mac: [2, 0, 0, 0, 0, last],
            mtu: 1500,
            addresses: vec![(IpAddr::from([10, 0, 0, last]), 24)],
            gateway: None,
            http: http.map(str::to_owned),
            echo: Some(7),
            seed: u64::from(last),
        })
    }

    /// Lets a client do something with a server at the other end of a cable.
    fn done(op: &Op) -> Option<Vec<u8>> {
        let (mut client, mut server) = (host(1, None), host(2, Some("hello")));
        client.begin(op).unwrap();
        for step in 0..200u64 {
            let now = step * 50_000_000;
            client.poll(now, &mut |frame| server.receive(frame));
            server.poll(now, &mut |frame| client.receive(frame));
            if let Some(answer) = client.answer() {
                return Some(answer);
            }
        }
        None
    }

    #[test]
    fn a_host_answers_ping_http_and_echo() {
        let to = IpAddr::from([10, 0, 0, 2]);
        assert_eq!(done(&Op::Ping { to, count: 3 }), Some(Vec::new()));
        assert_eq!(done(&Op::Ping { to: IpAddr::from([10, 0, 0, 9]), count: 1 }), None);
        let ask =
            |port, tcp, send: &[u8]| Op::Ask { to: SocketAddr::new(to, port), tcp, send: send.to_vec() };
        let page = done(&ask(80, true, b"GET / HTTP/1.0\r\n\r\n")).unwrap();
        assert!(page.starts_with(b"HTTP/1.0 200 OK\r\n") && page.ends_with(b"\r\n\r\nhello"), "{page:?}");
        assert_eq!(done(&ask(7, false, b"abc")), Some(b"abc".to_vec()));
        assert_eq!(done(&ask(7, true, b"abc")), Some(b"abc".to_vec()));
        assert_eq!(done(&ask(9, true, b"abc")), None);
    }

    #[test]
    fn frames_that_make_no_sense_are_nothing() {
        let mut host = host(1, None);
        for len in 0..100 {
            host.receive(&vec![0xff; len]);
            host.poll(0, &mut |_| {});
        }
        assert!(host.begin(&Op::Ping { to: "fd00::1".parse().unwrap(), count: 1 }).is_err());
    }
}
