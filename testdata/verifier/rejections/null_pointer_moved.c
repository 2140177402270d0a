// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Arithmetic on a pointer that may be null.
//
// Rejected: EB0205 at line 16
#include "rejection.h"

ARRAY(values, __u64, 4);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	char *value = bpf_map_lookup_elem(&values, &key);

	value += 4;
	hide(value);
	if (!value)
		return XDP_DROP;
	return *value ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	char *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	value += 4;
	return *value ? XDP_PASS : XDP_DROP;
}
