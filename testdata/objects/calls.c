// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Several programs that share subprograms: static, global, hidden and weak ones, callbacks, and chains
// that are found in another order from each program.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

__u32 calls;

static __noinline int leaf(__u32 x)
{
	calls++;
	return x ^ 3;
}

static __noinline int middle(__u32 x)
{
	return leaf(x + 1) + leaf(x + 2);
}

__noinline int global_one(__u32 x)
{
	__u32 key = x & 3;
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (value)
		*value += 1;
	return middle(x);
}

__weak __noinline int weak_one(struct xdp_md *ctx)
{
	return ctx->rx_queue_index + 1;
}

__hidden __noinline int hidden_one(__u32 x)
{
	return global_one(x) * 2;
}

static int on_element(void *map, __u32 *key, __u64 *value, void *data)
{
	*(__u32 *)data += leaf(*value);
	return 0;
}

static int in_loop(__u32 index, void *data)
{
	*(__u32 *)data += middle(index);
	return 0;
}

SEC("xdp")
int first(struct xdp_md *ctx)
{
	return hidden_one(ctx->rx_queue_index) & 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	__u32 sum = 0;

	bpf_loop(4, in_loop, &sum, 0);
	bpf_for_each_map_elem(&counts, on_element, &sum, 0);
	return sum & 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp/cpumap")
int third(struct xdp_md *ctx)
{
	return weak_one(ctx) + leaf(1) + middle(2) > 7 ? XDP_PASS : XDP_DROP;
}

SEC("?xdp")
int optional(struct xdp_md *ctx)
{
	return middle(ctx->ingress_ifindex);
}

SEC("xdp.frags/devmap")
int alone(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
