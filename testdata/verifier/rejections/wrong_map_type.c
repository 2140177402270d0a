// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Map of a type that the function does not work on.
//
// Rejected: EB0508 at line 20
#include "rejection.h"

HASH(values, __u64, 16);

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	return bpf_redirect_map(&values, ctx->rx_queue_index, 0);
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	return bpf_redirect_map(&ports, ctx->rx_queue_index, 0);
}
