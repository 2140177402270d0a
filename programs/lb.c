// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* lb: an IPv4 layer-4 load balancer with consistent hashing and IPIP encapsulation.
 *
 * A packet to a service's address and port is put into an IPIP tunnel to one of the service's
 * backends and sent back out of the device it came from (XDP_TX), to the MAC address it came from,
 * as a balancer with one arm does. Everything else passes. The backend unwraps the packet (see
 * decap) and answers the client directly.
 *
 * Which backend: the one that the connection already has; else the service's ring, a lookup table
 * of RING_SIZE slots as Maglev builds it, which user space fills so that a changed set of backends
 * moves few connections. While a ring is empty, the four default backends share the flows by
 * rendezvous hashing, which moves few connections too, but costs a hash per backend.
 *
 * Maps: services (address, port, protocol to ring), rings (service to ring), backends (number in a
 * ring to address), connections (LRU, 5-tuple to backend), served (packets and bytes per backend
 * and CPU), results (packets per enum result and CPU).
 */
#include "include/flow.h"
#include "include/csum.h"

/* A prime, so that any offset and skip of the Maglev permutation visits every slot. */
#define RING_SIZE 251
#define DEFAULT_BACKENDS 4

enum result {
	RESULT_NOT_SERVICE,
	RESULT_KNOWN, /* connection found */
	RESULT_NEW,
	RESULT_FRAGMENT, /* no ports to balance by */
	RESULT_TOO_LONG, /* 20 more bytes do not fit the MTU */
	RESULT_NO_ROOM,	 /* no headroom for the outer header */
	RESULTS,
};

struct service_key {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct service_key);
	__type(value, __u32);
} services SEC(".maps");

/* Numbers of backends; 0 is an empty slot. */
struct ring {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RING_SIZE);
	__type(key, __u32);
	__type(value, __u32);
} default_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 64);
	__type(key, __u32);
	__array(values, struct ring);
} rings SEC(".maps") = {
	.values = { [0] = &default_ring },
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __be32);
} backends SEC(".maps");

/* Holds addresses and not numbers: a connection keeps its backend when numbers are given anew. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, __be32);
} connections SEC(".maps");

struct traffic {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 512);
	__type(key, __be32);
	__type(value, struct traffic);
} served SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RESULTS);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

/* A service that is there before anybody configured one; it uses ring 0. */
struct service_key default_service = {
	.addr = IPV4(192, 0, 2, 2),
	.port = bpf_htons(80),
	.proto = IPPROTO_TCP,
};

__be32 default_backends[DEFAULT_BACKENDS] = {
	IPV4(198, 51, 100, 11),
	IPV4(198, 51, 100, 12),
	IPV4(198, 51, 100, 13),
	IPV4(198, 51, 100, 14),
};

/* Outer source addresses are this /16 with a hash of the flow below: the backend's network card
 * then spreads the tunnel over its queues by the outer header alone.
 */
__be32 tunnel_net = IPV4(172, 16, 0, 0);

static __always_inline int pass(enum result result)
{
	count(&results, result);
	return XDP_PASS;
}

/* The service's ring number, or -1. */
static __noinline int find_service(const struct flow_key *flow)
{
	struct service_key key = {
		.addr = flow->daddr[3],
		.port = flow->dport,
		.proto = flow->proto,
	};
	__u32 *ring = bpf_map_lookup_elem(&services, &key);

	if (ring)
		return *ring & 0xffff;
	if (key.addr == default_service.addr && key.port == default_service.port &&
	    key.proto == default_service.proto)
		return 0;
	return -1;
}

/* Every backend draws a number from the flow, the highest one wins: taking a backend away moves
 * its own flows and no others.
 */
static __noinline __be32 rendezvous(__u32 hash)
{
	__be32 winner = 0;
	__u32 best = 0;

	for (int i = 0; i < DEFAULT_BACKENDS; i++) {
		__u32 draw = mix(hash, default_backends[i]);

		if (!winner || draw > best) {
			winner = default_backends[i];
			best = draw;
		}
	}
	return winner;
}

static __noinline __be32 choose_backend(__u32 service, __u32 hash)
{
	void *ring = bpf_map_lookup_elem(&rings, &service);
	__u32 slot = hash % RING_SIZE;
	__u32 *number;
	__be32 *addr;

	if (!ring)
		return rendezvous(hash);
	number = bpf_map_lookup_elem(ring, &slot);
	if (!number || !*number)
		return rendezvous(hash);
	addr = bpf_map_lookup_elem(&backends, number);
	return addr && *addr ? *addr : rendezvous(hash);
}

static __always_inline void count_served(__be32 backend, __u64 bytes)
{
	struct traffic *traffic = bpf_map_lookup_elem(&served, &backend);
	struct traffic first = { .packets = 1, .bytes = bytes };

	if (traffic) {
		traffic->packets++;
		traffic->bytes += bytes;
	} else {
		bpf_map_update_elem(&served, &backend, &first, BPF_NOEXIST);
	}
}

/* A frame after the outer header was put in. */
struct tunnelled {
	struct ethhdr eth;
	struct iphdr outer;
	struct iphdr inner;
} __attribute__((packed));

/* Room for the outer header is made in front; the Ethernet header moves there, turned around. */
static __noinline int encapsulate(struct xdp_md *ctx, __be32 backend, __u32 hash)
{
	struct tunnelled *frame;
	struct ethhdr old_eth;
	struct iphdr *outer;
	struct cursor c;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return pass(RESULT_NO_ROOM);
	/* Packet pointers from before the move are void. */
	c = frame_start(ctx);
	frame = take(&c, sizeof(*frame));
	if (!frame)
		return XDP_ABORTED;

	/* The old Ethernet header overlaps the outer IP header. */
	__builtin_memcpy(&old_eth, (void *)frame + sizeof(*outer), sizeof(old_eth));
	frame->eth = old_eth;
	swap_macs(&frame->eth);

	outer = &frame->outer;
	outer->version = 4;
	outer->ihl = 5;
	outer->tos = frame->inner.tos;
	outer->tot_len = bpf_htons(bpf_ntohs(frame->inner.tot_len) + sizeof(*outer));
	outer->id = 0;
	outer->frag_off = bpf_htons(IPV4_DF);
	outer->ttl = 64;
	outer->protocol = IPPROTO_IPIP;
	outer->check = 0;
	outer->saddr = tunnel_net | bpf_htonl(hash & 0xffff);
	outer->daddr = backend;
	outer->check = csum_ipv4(outer);
	return XDP_TX;
}

SEC("xdp")
int lb(struct xdp_md *ctx)
{
	enum result result = RESULT_KNOWN;
	__u32 hash, mtu = 0;
	struct flow_key flow;
	enum flow_kind kind;
	__be32 *known, backend;
	struct cursor c;
	__be16 proto;
	int service;

	/* A tagged frame would need its tags in front of the outer header: not ours. */
	c = frame_start(ctx);
	if (!take_eth(&c, &proto) || proto != bpf_htons(ETH_P_IP))
		return pass(RESULT_NOT_SERVICE);
	kind = flow_of(ctx, &flow);
	if (kind == FLOW_FRAGMENT)
		return pass(RESULT_FRAGMENT);
	if (kind != FLOW_OK)
		return pass(RESULT_NOT_SERVICE);
	service = find_service(&flow);
	if (service < 0)
		return pass(RESULT_NOT_SERVICE);

	/* Too long for the tunnel: the stack knows how to say so to the sender. */
	if (bpf_check_mtu(ctx, 0, &mtu, sizeof(struct iphdr), 0))
		return pass(RESULT_TOO_LONG);

	hash = flow_hash(&flow, 0);
	known = bpf_map_lookup_elem(&connections, &flow);
	if (known) {
		backend = *known;
	} else {
		result = RESULT_NEW;
		backend = choose_backend(service, hash);
		bpf_map_update_elem(&connections, &flow, &backend, BPF_ANY);
	}
	count(&results, result);
	count_served(backend, ctx->data_end - ctx->data);
	return encapsulate(ctx, backend, hash);
}

char _license[] SEC("license") = "Dual BSD/GPL";
