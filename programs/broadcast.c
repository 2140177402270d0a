// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* broadcast: copies group frames to all ports but the one they came from.
 *
 * Frames to a broadcast or multicast MAC address go to every device in the map ports except the
 * one they came in by (XDP_REDIRECT); with no ports, such a frame goes nowhere. Frames to
 * 01:80:c2:00:00:0x (spanning tree, LLDP, pause) pass: a bridge must not forward them. Unicast
 * passes.
 *
 * A port may be given port_out as its egress program: it puts the port's own MAC address on frames
 * if the map port_macs has one, and keeps tagged frames off ports that are marked as untagged.
 *
 * Maps: ports (any key to device and egress program), port_macs (ifindex to address and flags),
 * flooded (frames per kind of group and CPU), sent (frames out, per ifindex).
 */
#include "include/parse.h"

enum group {
	GROUP_UNICAST,
	GROUP_LINK_LOCAL,
	GROUP_BROADCAST,
	GROUP_MULTICAST,
	GROUPS,
};

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} ports SEC(".maps");

#define PORT_UNTAGGED 1

struct port {
	__u8 mac[ETH_ALEN];
	__u8 zero;
	__u8 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct port);
} port_macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GROUPS);
	__type(key, __u32);
	__type(value, __u64);
} flooded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} sent SEC(".maps");

static __always_inline enum group group_of(const struct ethhdr *eth)
{
	const __u8 *mac = eth->h_dest;

	/* The lowest bit of the first byte is set in group addresses. */
	if (!(mac[0] & 1))
		return GROUP_UNICAST;
	if ((mac[0] & mac[1] & mac[2] & mac[3] & mac[4] & mac[5]) == 0xff)
		return GROUP_BROADCAST;
	if (mac[0] == 0x01 && mac[1] == 0x80 && mac[2] == 0xc2 && mac[3] == 0 && mac[4] == 0 &&
	    mac[5] < 0x10)
		return GROUP_LINK_LOCAL;
	return GROUP_MULTICAST;
}

SEC("xdp")
int broadcast(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	struct ethhdr *eth;
	enum group group;
	__be16 proto;

	eth = take_eth(&c, &proto);
	if (!eth)
		return XDP_ABORTED;
	group = group_of(eth);
	count(&flooded, group);
	if (group == GROUP_UNICAST || group == GROUP_LINK_LOCAL)
		return XDP_PASS;
	/* The key means nothing here: the flag asks for all entries. */
	return bpf_redirect_map(&ports, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
}

static __always_inline void count_sent(__u32 ifindex)
{
	__u64 *frames = bpf_map_lookup_elem(&sent, &ifindex);
	__u64 one = 1;

	if (frames)
		*frames += 1;
	else
		bpf_map_update_elem(&sent, &ifindex, &one, BPF_ANY);
}

/* Runs as a frame leaves through a port, once per copy. */
SEC("xdp/devmap")
int port_out(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	__u32 ifindex = ctx->egress_ifindex;
	struct port *port = bpf_map_lookup_elem(&port_macs, &ifindex);
	struct ethhdr *eth;
	__be16 proto;

	eth = take_eth(&c, &proto);
	if (!eth)
		return XDP_ABORTED;
	if (port) {
		if (port->flags & PORT_UNTAGGED && is_vlan(proto))
			return XDP_DROP;
		__builtin_memcpy(eth->h_source, port->mac, ETH_ALEN);
	}
	count_sent(ifindex);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
