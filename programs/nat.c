// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* nat: source NAT for TCP and UDP over IPv4, on one arm.
 *
 * Packets from inside_net get the source public_addr and a port of their own; packets to
 * public_addr and such a port get the inside address and port back. Both go back to the router
 * that sent them here (XDP_TX). Packets to a port of public_addr that nobody holds are dropped,
 * and everything else passes. A mapping belongs to the inside address and port alone, whoever the
 * other side is (RFC 4787 calls it endpoint-independent), so both tables stay small.
 *
 * Mappings do not age here: a user space that finds `packets` unchanged after its timeout deletes
 * the pair. Fragments pass untranslated, since all but the first one have no ports.
 *
 * Maps: outbound (inside address and port to public port), inbound (public port to inside address
 * and port), results (packets per enum result and CPU).
 */
#include "include/parse.h"
#include "include/csum.h"

volatile const __be32 inside_net = IPV4(10, 0, 0, 0);
volatile const __be32 inside_mask = IPV4(255, 0, 0, 0);
volatile const __be32 public_addr = IPV4(198, 51, 100, 1);
volatile const __u16 first_port = 1024;
/* Traces what could not be translated to /sys/kernel/tracing/trace_pipe. */
volatile const bool verbose = false;

/* How many ports a new mapping tries before it gives up. */
#define PORT_TRIES 16

enum result {
	RESULT_OTHER, /* not ours */
	RESULT_OUT,
	RESULT_OUT_NEW,
	RESULT_NO_PORT, /* all tries were taken, or the tables are full */
	RESULT_IN,
	RESULT_IN_UNKNOWN,
	RESULT_FRAGMENT,
	RESULTS,
};

struct endpoint {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 zero;
};

struct public_port {
	__u64 packets;
	__be16 port;
	__u16 zero[3];
};

struct inside {
	__u64 packets;
	struct endpoint endpoint;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct endpoint);
	__type(value, struct public_port);
} outbound SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct endpoint);
	__type(value, struct inside);
} inbound SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RESULTS);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

/* Where the fields to translate are. */
struct packet {
	struct ethhdr *eth;
	struct iphdr *ip;
	__be16 *sport;
	__be16 *dport;
	__sum16 *check; /* NULL: UDP without a checksum */
};

static __always_inline int verdict(enum result result, int action)
{
	count(&results, result);
	return action;
}

/* Two CPUs may want the same port, or a mapping for the same endpoint, at the same time. Each
 * entry is claimed with BPF_NOEXIST, so there is one winner, and the loser takes what the winner
 * made.
 */
static __noinline __be16 new_mapping(const struct endpoint *source)
{
	__u32 start = (source->addr ^ source->port * 0x9e3779b1u) >> 8;
	__u32 ports = 65536 - first_port;
	struct endpoint public = { .addr = public_addr, .proto = source->proto };
	struct inside inside = { .endpoint = *source };
	struct public_port mapping = { .packets = 1 };

	for (int i = 0; i < PORT_TRIES; i++) {
		struct public_port *winner;

		public.port = bpf_htons(first_port + (start + i) % ports);
		if (bpf_map_update_elem(&inbound, &public, &inside, BPF_NOEXIST))
			continue;
		mapping.port = public.port;
		if (!bpf_map_update_elem(&outbound, source, &mapping, BPF_NOEXIST))
			return public.port;
		bpf_map_delete_elem(&inbound, &public);
		winner = bpf_map_lookup_elem(&outbound, source);
		return winner ? winner->port : 0;
	}
	return 0;
}

/* The L4 checksum covers both addresses through the pseudo header. */
static __always_inline void translate(struct packet *p, __be32 *addr, __be32 new_addr, __be16 *port,
				      __be16 new_port)
{
	csum_replace4(&p->ip->check, *addr, new_addr);
	if (p->check) {
		csum_replace4(p->check, *addr, new_addr);
		csum_replace2(p->check, *port, new_port);
		/* In UDP 0 means "none"; the other zero of ones' complement means the sum 0. */
		if (!*p->check && p->ip->protocol == IPPROTO_UDP)
			*p->check = 0xffff;
	}
	*addr = new_addr;
	*port = new_port;
	swap_macs(p->eth);
}

static __always_inline int go_out(struct packet *p)
{
	struct endpoint source = {
		.addr = p->ip->saddr,
		.port = *p->sport,
		.proto = p->ip->protocol,
	};
	struct public_port *mapping = bpf_map_lookup_elem(&outbound, &source);
	enum result result = RESULT_OUT;
	__be16 port;

	if (mapping) {
		__sync_fetch_and_add(&mapping->packets, 1);
		port = mapping->port;
	} else {
		port = new_mapping(&source);
		result = RESULT_OUT_NEW;
	}
	if (!port) {
		if (verbose)
			bpf_printk("nat: no port for %pI4:%d", &source.addr,
				   bpf_ntohs(source.port));
		return verdict(RESULT_NO_PORT, XDP_DROP);
	}
	translate(p, &p->ip->saddr, public_addr, p->sport, port);
	return verdict(result, XDP_TX);
}

static __always_inline int come_in(struct packet *p)
{
	struct endpoint public = {
		.addr = public_addr,
		.port = *p->dport,
		.proto = p->ip->protocol,
	};
	struct inside *inside = bpf_map_lookup_elem(&inbound, &public);

	if (!inside)
		return verdict(RESULT_IN_UNKNOWN, XDP_DROP);
	__sync_fetch_and_add(&inside->packets, 1);
	translate(p, &p->ip->daddr, inside->endpoint.addr, p->dport, inside->endpoint.port);
	return verdict(RESULT_IN, XDP_TX);
}

SEC("xdp")
int nat(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	struct packet p = {};
	struct tcphdr *tcp;
	struct udphdr *udp;
	__be16 proto;

	p.eth = take_eth(&c, &proto);
	if (!p.eth || proto != bpf_htons(ETH_P_IP))
		return verdict(RESULT_OTHER, XDP_PASS);
	p.ip = take_ipv4(&c);
	if (!p.ip)
		return verdict(RESULT_OTHER, XDP_PASS);
	if (p.ip->frag_off & bpf_htons(IPV4_OFFSET | IPV4_MF))
		return verdict(RESULT_FRAGMENT, XDP_PASS);

	switch (p.ip->protocol) {
	case IPPROTO_TCP:
		tcp = take(&c, sizeof(*tcp));
		if (!tcp)
			return verdict(RESULT_OTHER, XDP_PASS);
		p.sport = &tcp->source;
		p.dport = &tcp->dest;
		p.check = &tcp->check;
		break;
	case IPPROTO_UDP:
		udp = take(&c, sizeof(*udp));
		if (!udp)
			return verdict(RESULT_OTHER, XDP_PASS);
		p.sport = &udp->source;
		p.dport = &udp->dest;
		p.check = udp->check ? &udp->check : NULL;
		break;
	default:
		return verdict(RESULT_OTHER, XDP_PASS);
	}

	if (p.ip->daddr == public_addr)
		return come_in(&p);
	if ((p.ip->saddr & inside_mask) == inside_net && (p.ip->daddr & inside_mask) != inside_net)
		return go_out(&p);
	return verdict(RESULT_OTHER, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
