//! The hosts of a scene: what reaches their devices' stacks goes to them, and what they send goes out there.

use std::net::SocketAddr;

use control::scene::{Answer, HostOp, Scene, SceneError};

use super::{EngineScene, TURNS_MAX, home};
use crate::port::{Host, HostConfig, Op, Port};

/// Rounds in which hosts and devices answer each other before this counts as going on for ever.
const ROUNDS_MAX: u32 = 1 << 16;
/// Virtual time after which a host gives up.
const PATIENCE_NS: u64 = 20_000_000_000;
/// Virtual time between two looks at a host that waits for nothing in particular.
const LOOK_NS: u64 = 10_000_000;

impl EngineScene {
    pub(super) fn make_hosts(&mut self, scene: &Scene, seed: u64) -> Result<(), SceneError> {
        for host in &scene.hosts {
            let ifindex = self.ifindex(&host.device)?;
            let core = self.device(&host.device)?;
            let config = HostConfig {
                mac: core.core().mac,
                mtu: core.core().mtu() as usize,
                addresses: host.addresses.iter().map(|a| (a.ip, a.len)).collect(),
                gateway: host.gateway,
                http: host.http.clone(),
                echo: host.echo,
                seed: seed ^ u64::from(ifindex),
            };
            self.hosts.insert(ifindex, Host::new(&config));
        }
        Ok(())
    }

    /// Takes what reached stacks: hosts get theirs, the rest is kept for the step's claims.
    pub(super) fn collect(&mut self) {
        let (follower, hosts, received) = (&self.follower, &mut self.hosts, &mut self.received);
        let devices = &self.devices;
        self.machine.take_received(|_, skb| {
            follower.iter().for_each(|f| f.received(skb.packet.identity(), skb.dev));
            match hosts.get_mut(&skb.dev) {
                Some(host) => host.receive(&skb.frame_bytes()),
                None => {
                    let name = devices.iter().find(|(_, ifindex)| **ifindex == skb.dev);
                    received.extend(name.map(|(name, _)| (name.clone(), skb.frame_bytes())));
                }
            }
        });
    }

    /// Lets hosts and devices work until nothing moves.
    pub(super) fn serve_hosts(&mut self) -> Result<(), SceneError> {
        for _ in 0..ROUNDS_MAX {
            self.collect();
            let now = self.machine.host.time_ns();
            let mut sent: Vec<(u32, Vec<u8>)> = Vec::new();
            let mut worked = false;
            for (ifindex, host) in &mut self.hosts {
                worked |= host.poll(now, &mut |frame| sent.push((*ifindex, frame.to_vec())));
            }
            if !worked && sent.is_empty() {
                return Ok(());
            }
            for (ifindex, frame) in sent {
                // What the device refuses is lost, as on a wire; its reason has a counter.
                let _ = self.machine.on_cpu(0, |cx| cx.packet_send(ifindex, &frame));
                self.machine.settle(TURNS_MAX).map_err(|e| home(e.to_string()))?;
            }
        }
        Err(home(format!("hosts still talk after {ROUNDS_MAX} rounds")))
    }

    pub(super) fn host_op(&mut self, device: &str, op: &HostOp) -> Result<Answer, SceneError> {
        let ifindex = self.ifindex(device)?;
        let get = |to: SocketAddr| format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", to.ip()).into_bytes();
        let asked = match op {
            HostOp::Ping { to, count } => Op::Ping { to: *to, count: *count },
            HostOp::Fetch { from, .. } => Op::Ask { to: *from, tcp: true, send: get(*from) },
            HostOp::Echo { to, tcp, text } => Op::Ask { to: *to, tcp: *tcp, send: text.clone().into_bytes() },
        };
        let host =
            self.hosts.get_mut(&ifindex).ok_or_else(|| home(format!("there is no host at {device}")))?;
        if let Err(e) = host.begin(&asked) {
            return Ok(Err(e.to_string()));
        }
        let end = self.machine.host.time_ns() + PATIENCE_NS;
        let answer = loop {
            self.serve_hosts()?;
            let now = self.machine.host.time_ns();
            let answer = self.hosts[&ifindex].answer();
            if answer.is_some() || now >= end {
                break answer;
            }
            let due = self.hosts.values_mut().filter_map(|h| h.due_ns(now)).min();
            self.machine.host.set_time_ns(due.unwrap_or(now + LOOK_NS).clamp(now + 1_000, now + LOOK_NS));
        };
        // The end of a connection is talked over, too.
        self.serve_hosts()?;
        self.hosts.entry(ifindex).and_modify(Host::end);
        Ok(judge(op, answer))
    }
}

/// Whether what came back is what was wanted.
fn judge(op: &HostOp, answer: Option<Vec<u8>>) -> Answer {
    let Some(answer) = answer else { return Err("no answer".to_owned()) };
    let text = String::from_utf8_lossy(&answer);
    match op {
        HostOp::Ping { .. } => Ok(()),
        HostOp::Echo { text: sent, .. } if *sent == text => Ok(()),
        HostOp::Echo { .. } => Err(format!("{text:?} came back")),
        HostOp::Fetch { expect, .. } => match (text.split_once("\r\n\r\n"), expect) {
            (Some((head, _)), _) if !head.starts_with("HTTP/1.0 200") => {
                Err(head.lines().next().unwrap_or("").to_owned())
            }
            (Some((_, body)), Some(expect)) if body != expect => Err(format!("the page is {body:?}")),
            (Some(_), _) => Ok(()),
            (None, _) => Err(format!("{text:?} is no page")),
        },
    }
}
