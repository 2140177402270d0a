// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Special field accessed like ordinary memory.
//
// Rejected: EB0413 at line 18
#include "rejection.h"

ARRAY(values, struct { struct bpf_spin_lock lock; __u32 count; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	__builtin_memset(value, 0, sizeof(*value));
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	value->count = 0;
	return XDP_PASS;
}
