// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Two comparisons with null made into one of both pointers together, as compilers do.
//
// Rejected: EB0204 at line 19
// Cause: lowering
#include "rejection.h"

HASH(values, __u64, 16);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index, other = key + 1;
	__u64 *a = bpf_map_lookup_elem(&values, &key);
	__u64 *b = bpf_map_lookup_elem(&values, &other);
	__u64 *both = a;

	asm volatile("%0 |= %1" : "+r"(both) : "r"(b));
	if (!both)
		return XDP_DROP;
	return *a + *b ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index, other = key + 1;
	__u64 *a = bpf_map_lookup_elem(&values, &key);
	__u64 *b = bpf_map_lookup_elem(&values, &other);

	if (!a)
		return XDP_DROP;
	asm volatile("");
	if (!b)
		return XDP_DROP;
	return *a + *b ? XDP_PASS : XDP_DROP;
}
