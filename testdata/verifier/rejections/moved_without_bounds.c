// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Pointer moved by a number without bounds.
//
// Rejected: EB0207 at line 18
#include "rejection.h"

ARRAY(values, struct { __s64 at; char bytes[64]; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	return value->bytes[value->at] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);
	__u64 at;

	if (!value)
		return XDP_DROP;
	at = value->at;
	if (at >= sizeof(value->bytes))
		return XDP_DROP;
	return value->bytes[at] ? XDP_PASS : XDP_DROP;
}
