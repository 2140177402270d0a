// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* path: programs that decide nothing by themselves, for scenes and benchmarks of what happens to a
 * packet before and after a program. Each does one thing; maps say where packets go.
 */
#include "../include/base.h"

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} hashed_devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct bpf_cpumap_val);
} cpus SEC(".maps");

/* Packets counted per CPU, and the device that redirect_index sends to. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ifindex SEC(".maps");

/* What a program has seen of the packet: bytes of metadata, room before and after. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} meta_len SEC(".maps");

/* Packets so far, for programs that treat the first one otherwise. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} turns SEC(".maps");

static __always_inline __u32 *only(void *map)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(map, &key);
}

SEC("xdp")
int count_drop(struct xdp_md *ctx)
{
	count(&packets, 0);
	return XDP_DROP;
}

SEC("xdp")
int count_pass(struct xdp_md *ctx)
{
	count(&packets, 0);
	return XDP_PASS;
}

SEC("xdp")
int tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp")
int aborted(struct xdp_md *ctx)
{
	return XDP_ABORTED;
}

SEC("xdp")
int unknown(struct xdp_md *ctx)
{
	return 77;
}

SEC("xdp.frags")
int frags_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int redirect_index(struct xdp_md *ctx)
{
	__u32 *to = only(&ifindex);

	return to ? bpf_redirect(*to, 0) : XDP_ABORTED;
}

SEC("xdp")
int redirect_bare(struct xdp_md *ctx)
{
	return XDP_REDIRECT;
}

/* The first packet calls the helper and is dropped, the others only answer XDP_REDIRECT. */
SEC("xdp")
int redirect_stale(struct xdp_md *ctx)
{
	__u32 *to = only(&ifindex), *turn = only(&turns);

	if (!to || !turn)
		return XDP_ABORTED;
	if ((*turn)++)
		return XDP_REDIRECT;
	bpf_redirect(*to, 0);
	return XDP_DROP;
}

SEC("xdp")
int redirect_map(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, 0, 0);
}

/* To entries 0 and 1 in turn. */
SEC("xdp")
int redirect_turns(struct xdp_md *ctx)
{
	__u32 *turn = only(&turns);

	return turn ? bpf_redirect_map(&devices, (*turn)++ & 1, 0) : XDP_ABORTED;
}

SEC("xdp")
int redirect_missing(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, 7, XDP_PASS);
}

SEC("xdp")
int redirect_bad_flags(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, 0, 4);
}

SEC("xdp")
int redirect_hash(struct xdp_md *ctx)
{
	return bpf_redirect_map(&hashed_devices, 100, 0);
}

SEC("xdp")
int broadcast(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, 0, BPF_F_BROADCAST);
}

SEC("xdp")
int broadcast_others(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
}

SEC("xdp")
int redirect_cpu(struct xdp_md *ctx)
{
	return bpf_redirect_map(&cpus, 0, 0);
}

SEC("xdp")
int add_meta(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_meta(ctx, -16))
		return XDP_ABORTED;
	return bpf_redirect_map(&devices, 0, 0);
}

SEC("xdp")
int see_meta(struct xdp_md *ctx)
{
	__u32 *seen = only(&meta_len);

	if (seen)
		*seen = ctx->data - ctx->data_meta;
	return XDP_DROP;
}

/* Takes the Ethernet header's first four bytes off: what is left starts in the middle of an address. */
SEC("xdp")
int cut_head(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, 4) ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp")
int grow_head(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -216) ? XDP_ABORTED : XDP_DROP;
}

SEC("xdp")
int grow_head_too_far(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -217) ? XDP_ABORTED : XDP_DROP;
}

SEC("xdp/devmap")
int egress_pass(struct xdp_md *ctx)
{
	count(&packets, 0);
	return XDP_PASS;
}

SEC("xdp/devmap")
int egress_drop(struct xdp_md *ctx)
{
	count(&packets, 0);
	return XDP_DROP;
}

SEC("xdp/devmap")
int egress_tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp/cpumap")
int cpu_pass(struct xdp_md *ctx)
{
	count(&packets, 0);
	return XDP_PASS;
}

SEC("xdp/cpumap")
int cpu_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp/cpumap")
int cpu_redirect(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, 0, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
