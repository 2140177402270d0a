// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* stats: a small policy by protocol, with statistics per action.
 *
 *   IPv4, IPv6, ARP            XDP_PASS
 *   any other protocol         XDP_DROP     (other_action)
 *   a frame shorter than its IP header claims
 *                              XDP_ABORTED  (short_action; shows up in the xdp_exception trace)
 *
 * Maps: actions, packets and bytes per action and CPU; lengths, a histogram of frame lengths by
 * powers of two.
 */
#include "include/parse.h"
#include <bpf/bpf_core_read.h>

/* Read-only after load: the verifier sees constants and drops the branches they rule out. */
volatile const __u32 other_action = XDP_DROP;
volatile const __u32 short_action = XDP_ABORTED;

struct action_stats {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XDP_REDIRECT + 1);
	__type(key, __u32);
	__type(value, struct action_stats);
} actions SEC(".maps");

#define LENGTH_SLOTS 18

/* Slot n counts frames of 2^n to 2^(n+1)-1 bytes. Shared by all CPUs, hence atomic adds. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LENGTH_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} lengths SEC(".maps");

/* Frags are counted where the kernel can tell their length (since 5.18), which CO-RE answers at
 * load time: in older kernels the call is not even there to be verified.
 */
static __always_inline __u64 frame_length(struct xdp_md *ctx)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_xdp_get_buff_len))
		return bpf_xdp_get_buff_len(ctx);
	return ctx->data_end - ctx->data;
}

static __always_inline __u32 log2_slot(__u64 length)
{
	__u32 slot = 0;

	for (int i = 0; i < LENGTH_SLOTS - 1 && length > 1; i++) {
		length >>= 1;
		slot++;
	}
	return slot;
}

/* Does the frame hold all bytes that its IP header announces? */
static __noinline bool is_whole(struct xdp_md *ctx, __u32 l3_offset, __u32 l3_length)
{
	return l3_offset + l3_length <= frame_length(ctx);
}

static __always_inline __u32 choose_action(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	void *start = c.pos;
	__be16 proto;
	__u32 offset;

	if (!take_eth(&c, &proto) || !skip_vlans(&c, &proto))
		return short_action;
	offset = c.pos - start;

	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = take_ipv4(&c);

		if (!ip || !is_whole(ctx, offset, bpf_ntohs(ip->tot_len)))
			return short_action;
		return XDP_PASS;
	}
	if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = take_ipv6(&c);

		if (!ip6 || !is_whole(ctx, offset + sizeof(*ip6), bpf_ntohs(ip6->payload_len)))
			return short_action;
		return XDP_PASS;
	}
	return proto == bpf_htons(ETH_P_ARP) ? XDP_PASS : other_action;
}

SEC("xdp.frags")
int stats(struct xdp_md *ctx)
{
	__u64 length = frame_length(ctx);
	__u32 action = choose_action(ctx);
	__u32 slot = log2_slot(length);
	struct action_stats *stats = bpf_map_lookup_elem(&actions, &action);
	__u64 *frames = bpf_map_lookup_elem(&lengths, &slot);

	if (frames)
		__sync_fetch_and_add(frames, 1);
	if (stats) {
		stats->packets++;
		stats->bytes += length;
	}
	return action;
}

char _license[] SEC("license") = "Dual BSD/GPL";
