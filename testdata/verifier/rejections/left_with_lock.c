// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The program leaves inside of a region.
//
// Rejected: EB0705 at line 21
#include "rejection.h"

ARRAY(values, struct { struct bpf_spin_lock lock; __u32 count; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	bpf_spin_lock(&value->lock);
	value->count++;
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
	value->count++;
	bpf_spin_unlock(&value->lock);
	return XDP_PASS;
}
