// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Unlock of what is not locked, or not in order.
//
// Rejected: EB0704 at line 18
#include "rejection.h"

ARRAY(values, struct { struct bpf_spin_lock lock; __u32 count; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	bpf_spin_unlock(&value->lock);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	bpf_spin_lock(&value->lock);
	bpf_spin_unlock(&value->lock);
	return XDP_PASS;
}
