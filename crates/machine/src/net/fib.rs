//! Routes: tables by longest prefix, rules, next hops, and the order in which the kernel asks them.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::IpAddr;

use bpf::host::{FibAnswer, FibCode, FibQuery};
use siphasher::sip::SipHasher24;
use uapi::Errno;

use super::config::{RouteKind, Rule, RuleAction, RuleFamily};
use super::types::bits;
use super::{NetDevice, NetTables, Prefix, TableId};

/// Largest MTU of a packet, bytes.
const IP_MAX_MTU: u32 = 0xffff;
const IP6_MAX_MTU: u32 = 0xffff + 40;
/// Least MTU of an IPv6 link, bytes.
const IPV6_MIN_MTU: u32 = 1280;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// One routing table of one family: routes by prefix length, then by network.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    by_len: BTreeMap<u8, BTreeMap<u128, Vec<TableRoute>>>,
}

/// A route within a table.
#[derive(Clone, Debug)]
pub(super) struct TableRoute {
    pub(super) kind: RouteKind,
    pub(super) tos: u8,
    pub(super) metric: u32,
    pub(super) locked_mtu: Option<u32>,
    pub(super) prefsrc: Option<IpAddr>,
    pub(super) hops: Vec<Hop>,
}

/// A next hop.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) ifindex: u32,
    pub(super) via: Option<IpAddr>,
    pub(super) weight: u32,
    pub(super) encap: bool,
}

impl Table {
    pub(super) fn insert(&mut self, dst: Prefix, route: TableRoute) {
        let routes = self.by_len.entry(dst.len).or_default().entry(bits(dst.ip, dst.len)).or_default();
        // Those for a type of service first, then by preference.
        let at =
            routes.partition_point(|r| (u8::MAX - r.tos, r.metric) <= (u8::MAX - route.tos, route.metric));
        routes.insert(at, route);
    }

    pub(super) fn has(&self, dst: Prefix, kind: RouteKind) -> bool {
        let routes = self.by_len.get(&dst.len).and_then(|nets| nets.get(&bits(dst.ip, dst.len)));
        routes.is_some_and(|routes| routes.iter().any(|route| route.kind == kind))
    }

    fn routes(&self, ip: IpAddr, len: u8) -> &[TableRoute] {
        self.by_len.get(&len).and_then(|nets| nets.get(&bits(ip, len))).map_or(&[], Vec::as_slice)
    }
}

/// Why a lookup found no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoWay {
    /// Ask the next rule.
    Again,
    NotFound,
    Blackhole,
    Unreachable,
    Prohibit,
}

impl NoWay {
    fn code(self) -> FibCode {
        match self {
            Self::Again | Self::NotFound => FibCode::NotForwarded,
            Self::Blackhole => FibCode::Blackhole,
            Self::Unreachable => FibCode::Unreachable,
            Self::Prohibit => FibCode::Prohibit,
        }
    }
}

/// What a route of this kind answers instead of a way.
fn refusal(kind: RouteKind) -> Option<NoWay> {
    match kind {
        RouteKind::Blackhole => Some(NoWay::Blackhole),
        RouteKind::Unreachable => Some(NoWay::Unreachable),
        RouteKind::Prohibit => Some(NoWay::Prohibit),
        RouteKind::Throw => Some(NoWay::Again),
        _ => None,
    }
}

impl NetTables {
    /// The way of a packet, step by step as the kernel asks.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no such device.
    ///
    /// Kernel: `net/core/filter.c bpf_ipv4_fib_lookup, bpf_ipv6_fib_lookup, v6.18`
    pub fn fib_lookup(&self, query: &FibQuery) -> Result<FibAnswer, Errno> {
        let family = Family::of(query.dst);
        if family == Family::V6 && (never_forwarded(query.dst) || never_forwarded(query.src)) {
            return Ok(FibAnswer::only(FibCode::NotForwarded));
        }
        let device = self.devices.get(&query.ifindex).ok_or(Errno::ENODEV)?;
        let forwarding = if family == Family::V4 { device.forwarding } else { device.forwarding6 };
        if !forwarding {
            return Ok(FibAnswer::only(FibCode::ForwardingDisabled));
        }
        let mut answer = FibAnswer { asked: true, ..FibAnswer::only(FibCode::NotForwarded) };
        answer.code = self.follow(query, device, &mut answer);
        Ok(answer)
    }

    /// Finds the route and fills the answer in, up to what ends it.
    fn follow(&self, query: &FibQuery, device: &NetDevice, answer: &mut FibAnswer) -> FibCode {
        let route = match self.route(query, device) {
            Ok(route) => route,
            Err(no_way) => return no_way.code(),
        };
        if let Some(no_way) = refusal(route.kind) {
            return no_way.code();
        }
        if route.kind != RouteKind::Unicast {
            return FibCode::NotForwarded;
        }
        let Some(hop) = self.select_hop(query, route) else { return FibCode::NotForwarded };
        let egress = &self.devices[&hop.ifindex];
        let mtu = route_mtu(query, route, egress);
        answer.mtu = Some(mtu);
        if u32::from(query.tot_len) > mtu {
            return FibCode::FragmentationNeeded;
        }
        if hop.encap {
            return FibCode::UnsupportedTunnel;
        }
        answer.egress = Some((hop.ifindex, route.metric));
        answer.gateway = hop.via;
        if query.flags & FibQuery::SRC != 0 {
            answer.src = self.source_address(query, route, hop);
            if answer.src.is_none() {
                return FibCode::NoSourceAddress;
            }
        }
        if query.flags & FibQuery::SKIP_NEIGH != 0 {
            return FibCode::Success;
        }
        match self.neighbours.get(&(hop.ifindex, hop.via.unwrap_or(query.dst))) {
            Some(dmac) => {
                answer.macs = Some((egress.info.mac, *dmac));
                FibCode::Success
            }
            None => FibCode::NoNeighbour,
        }
    }

    fn route(&self, query: &FibQuery, device: &NetDevice) -> Result<&TableRoute, NoWay> {
        let family = Family::of(query.dst);
        let vrf = self.vrf_table(device);
        let has_vrfs = self.devices.values().any(|device| device.vrf_table.is_some());
        let has_rules = has_vrfs || self.rules.iter().any(|rule| rule_family(rule) == family);
        if query.flags & FibQuery::DIRECT != 0 {
            let named = query.flags & FibQuery::TBID != 0;
            let table = if named { TableId(query.tbid) } else { vrf.unwrap_or(TableId::MAIN) };
            let table = if table == TableId(0) { TableId::MAIN } else { table };
            // Until there are rules, IPv4 keeps the routes of both in one.
            let joined = [TableId::LOCAL, TableId::MAIN];
            if family == Family::V4 && !has_rules && joined.contains(&table) {
                return self.ask(query, &joined.map(|table| (family, table)));
            }
            return self.ask(query, &[(family, table)]);
        }
        if has_rules { self.by_rules(query, vrf) } else { self.by_default(query) }
    }

    /// The table of the VRF that a device is or belongs to.
    fn vrf_table(&self, device: &NetDevice) -> Option<TableId> {
        let master = device.master.and_then(|master| self.devices.get(&master));
        master.unwrap_or(device).vrf_table
    }

    /// Without rules of one's own, IPv4 looks into the tables local and main as if they were one.
    ///
    /// Kernel: `include/net/ip_fib.h fib_lookup, net/ipv6/fib6_rules.c fib6_lookup, v6.18`
    fn by_default(&self, query: &FibQuery) -> Result<&TableRoute, NoWay> {
        let family = Family::of(query.dst);
        let (local, main) = ((family, TableId::LOCAL), (family, TableId::MAIN));
        if family == Family::V6 {
            return self.ask(query, &[local]).or_else(|_| self.ask(query, &[main]));
        }
        self.ask(query, &[local, main]).or_else(|no_way| {
            let default = (family, TableId::DEFAULT);
            if self.tables.contains_key(&default) { self.ask(query, &[default]) } else { Err(no_way) }
        })
    }

    /// Asks the rules in the order of their priorities, the kernel's own among them.
    ///
    /// Kernel: `net/core/fib_rules.c fib_rules_lookup, v6.18`
    fn by_rules(&self, query: &FibQuery, vrf: Option<TableId>) -> Result<&TableRoute, NoWay> {
        let family = Family::of(query.dst);
        let own = [
            (0, Some(TableId::LOCAL)),
            (1000, vrf),
            (32766, Some(TableId::MAIN)),
            (32767, Some(TableId::DEFAULT)),
        ];
        let own = own.into_iter().filter_map(|(priority, table)| Some((priority, RuleAction::Table, table?)));
        let given = self.rules.iter().filter(|rule| rule_family(rule) == family);
        let given = given.filter(|rule| self.rule_matches(rule, query));
        let mut all: Vec<_> = own.chain(given.map(|rule| (rule.priority, rule.action, rule.table))).collect();
        all.sort_by_key(|(priority, ..)| *priority);
        for (_, action, table) in all {
            match action {
                RuleAction::Table => match self.ask(query, &[(family, table)]) {
                    Err(NoWay::Again) => {}
                    answer => return answer,
                },
                // IPv6 does not tell the refusals of rules apart.
                _ if family == Family::V6 => return Err(NoWay::NotFound),
                RuleAction::Blackhole => return Err(NoWay::Blackhole),
                RuleAction::Unreachable => return Err(NoWay::NotFound),
                RuleAction::Prohibit => return Err(NoWay::Prohibit),
            }
        }
        Err(NoWay::NotFound)
    }

    /// Kernel: `net/core/fib_rules.c fib_rule_match, v6.18`
    fn rule_matches(&self, rule: &Rule, query: &FibQuery) -> bool {
        let is = |name: &Option<String>, ifindex: Option<u32>| {
            name.as_ref().is_none_or(|name| ifindex.is_some() && self.ifindex(name) == ifindex)
        };
        let output = query.flags & FibQuery::OUTPUT != 0;
        let iif = if output { NetTables::LOOPBACK } else { query.ifindex };
        let mark = if query.flags & FibQuery::MARK != 0 { query.mark } else { 0 };
        let matches = is(&rule.iif, Some(iif))
            && is(&rule.oif, output.then_some(query.ifindex))
            && rule.fwmark.is_none_or(|fwmark| (fwmark ^ mark) & rule.fwmask == 0)
            && rule.from.is_none_or(|from| from.contains(query.src))
            && rule.to.is_none_or(|to| to.contains(query.dst))
            && (rule.tos == 0 || rule.tos == query.tos)
            && rule.ipproto.is_none_or(|proto| proto == query.l4_protocol)
            && rule.sport.is_none_or(|port| port == query.sport)
            && rule.dport.is_none_or(|port| port == query.dport);
        matches != rule.not
    }

    /// The best route of one table, or of several as if they were one.
    ///
    /// Kernel: `net/ipv4/fib_trie.c fib_table_lookup, net/ipv6/route.c fib6_table_lookup, v6.18`
    fn ask(&self, query: &FibQuery, keys: &[(Family, TableId)]) -> Result<&TableRoute, NoWay> {
        let tables: Vec<&Table> = keys.iter().filter_map(|key| self.tables.get(key)).collect();
        let mut lens: Vec<u8> = tables.iter().flat_map(|table| table.by_len.keys().copied()).collect();
        lens.sort_unstable();
        lens.dedup();
        for len in lens.into_iter().rev() {
            let routes = tables.iter().flat_map(|table| table.routes(query.dst, len));
            let found = match query.dst {
                IpAddr::V4(_) => self.first_ipv4(query, routes)?,
                IpAddr::V6(_) => self.best_ipv6(query, routes),
            };
            if let Some(route) = found {
                return Ok(route);
            }
        }
        Err(NoWay::Again)
    }

    fn first_ipv4<'a>(
        &self,
        query: &FibQuery,
        routes: impl Iterator<Item = &'a TableRoute>,
    ) -> Result<Option<&'a TableRoute>, NoWay> {
        for route in routes {
            if route.tos != 0 && (route.tos ^ query.tos) & DSCP_MASK != 0 {
                continue;
            }
            if let Some(no_way) = refusal(route.kind) {
                return Err(no_way);
            }
            if route.hops.iter().any(|hop| self.usable(query, hop)) {
                return Ok(Some(route));
            }
        }
        Ok(None)
    }

    /// The route of the smallest metric; among equals one over the packet's own device.
    fn best_ipv6<'a>(
        &self,
        query: &FibQuery,
        routes: impl Iterator<Item = &'a TableRoute>,
    ) -> Option<&'a TableRoute> {
        let usable = |route: &&TableRoute| {
            refusal(route.kind).is_some() || route.hops.iter().any(|hop| self.usable(query, hop))
        };
        let elsewhere = |route: &TableRoute| !route.hops.iter().any(|hop| hop.ifindex == query.ifindex);
        routes.filter(usable).min_by_key(|route| (route.metric, elsewhere(route)))
    }

    /// Whether packets can go by a next hop, and of IPv4 by the device that is asked for.
    fn usable(&self, query: &FibQuery, hop: &Hop) -> bool {
        let wanted =
            query.flags & FibQuery::OUTPUT == 0 || query.dst.is_ipv6() || hop.ifindex == query.ifindex;
        wanted && self.devices.get(&hop.ifindex).is_some_and(|device| device.up)
    }

    /// One of the next hops, by flow. The kernel's choice depends on a random key; this one does not.
    fn select_hop<'a>(&self, query: &FibQuery, route: &'a TableRoute) -> Option<&'a Hop> {
        let usable: Vec<&Hop> = route.hops.iter().filter(|hop| self.usable(query, hop)).collect();
        let output = query.flags & FibQuery::OUTPUT != 0;
        if let Some(own) = usable.iter().find(|hop| output && hop.ifindex == query.ifindex) {
            return Some(own);
        }
        let total: u64 = usable.iter().map(|hop| u64::from(hop.weight)).sum();
        let mut point = flow_hash(query).checked_rem(total)?;
        usable.into_iter().find(|hop| match point.checked_sub(hop.weight.into()) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        })
    }

    /// The address that the host would send from.
    fn source_address(&self, query: &FibQuery, route: &TableRoute, hop: &Hop) -> Option<IpAddr> {
        if route.prefsrc.is_some() {
            return route.prefsrc;
        }
        let egress = &self.devices[&hop.ifindex];
        match query.dst {
            IpAddr::V4(_) => Some(self.ipv4_source(egress, hop.via)),
            IpAddr::V6(dst) => {
                let rank = |ip: IpAddr| {
                    let IpAddr::V6(ip) = ip else { return None };
                    let link_local = (ip.to_bits() >> 118) == 0x3fa;
                    let common = (ip.to_bits() ^ dst.to_bits()).leading_zeros();
                    Some((ip == dst, !link_local, common))
                };
                let own = egress.addresses.iter().map(|prefix| prefix.ip);
                own.filter(IpAddr::is_ipv6).max_by_key(|ip| rank(*ip))
            }
        }
    }

    /// An address in the gateway's network, else any of the device, else any at all.
    ///
    /// Kernel: `net/ipv4/devinet.c inet_select_addr, v6.18`
    fn ipv4_source(&self, egress: &NetDevice, via: Option<IpAddr>) -> IpAddr {
        let near = |prefix: &&Prefix| via.is_some_and(|via| prefix.contains(via));
        let own = || egress.addresses.iter().filter(|prefix| prefix.ip.is_ipv4());
        let others = self.devices.values().flat_map(|device| &device.addresses);
        let any =
            own().find(near).or_else(|| own().next()).or_else(|| others.clone().find(|p| p.ip.is_ipv4()));
        any.map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |prefix| prefix.ip)
    }
}

/// Bits of the type of service that routes look at.
const DSCP_MASK: u8 = 0xfc;

fn rule_family(rule: &Rule) -> Family {
    match (rule.from.or(rule.to), rule.family) {
        (Some(prefix), _) => Family::of(prefix.ip),
        (None, RuleFamily::Ipv4) => Family::V4,
        (None, RuleFamily::Ipv6) => Family::V6,
    }
}

/// Kernel: `net/ipv4/route.c ip_mtu_from_fib_result, net/ipv6/route.c ip6_mtu_from_fib6, v6.18`
fn route_mtu(query: &FibQuery, route: &TableRoute, egress: &NetDevice) -> u32 {
    match query.dst {
        IpAddr::V4(_) => route.locked_mtu.unwrap_or_else(|| egress.info.mtu.min(IP_MAX_MTU)),
        IpAddr::V6(_) => route.locked_mtu.unwrap_or_else(|| egress.info.mtu.clamp(IPV6_MIN_MTU, IP6_MAX_MTU)),
    }
}

/// Multicast, link-local and loopback addresses stay on their link.
///
/// Kernel: `net/ipv6/route.c rt6_need_strict, v6.18`
fn never_forwarded(ip: IpAddr) -> bool {
    let IpAddr::V6(ip) = ip else { return false };
    ip.is_multicast() || ip.is_loopback() || ip.is_unicast_link_local()
}

fn flow_hash(query: &FibQuery) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    for ip in [query.src, query.dst] {
        hasher.write(&bits(ip, if ip.is_ipv4() { 32 } else { 128 }).to_be_bytes());
    }
    hasher.finish()
}
