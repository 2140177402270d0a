// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Offset that may be negative.
//
// Rejected: EB0404 at line 22
#include "rejection.h"

ARRAY(values, struct { char bytes[64]; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);
	__s16 at;

	if (!value)
		return XDP_DROP;
	at = (__s16)ctx->rx_queue_index;
	if (at >= 64)
		return XDP_DROP;
	return value->bytes[at] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);
	__u16 at;

	if (!value)
		return XDP_DROP;
	at = (__u16)ctx->rx_queue_index;
	if (at >= 64)
		return XDP_DROP;
	return value->bytes[at] ? XDP_PASS : XDP_DROP;
}
