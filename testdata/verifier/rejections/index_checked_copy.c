// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Index of which a copy is compared, that the verifier does not know to be one.
//
// Rejected: EB0406 at line 22
// Cause: lowering
#include "rejection.h"

ARRAY(values, struct { char bytes[64]; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);
	__u64 at = ctx->rx_queue_index, low = at;

	/* how a compiler without 32-bit registers cuts a number to 32 bits */
	asm volatile("%0 <<= 32; %0 >>= 32" : "+r"(low));
	if (!value || low >= sizeof(value->bytes))
		return XDP_DROP;
	value->bytes[at] = 1;
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);
	__u64 at = ctx->rx_queue_index, low = at;

	/* how a compiler without 32-bit registers cuts a number to 32 bits */
	asm volatile("%0 <<= 32; %0 >>= 32" : "+r"(low));
	if (!value || low >= sizeof(value->bytes))
		return XDP_DROP;
	value->bytes[low] = 1;
	return XDP_PASS;
}
