// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Lock where the map's value has none.
//
// Rejected: EB0702 at line 18
#include "rejection.h"

ARRAY(values, struct { struct bpf_spin_lock lock; __u32 pad; __u64 last; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	bpf_spin_lock((void *)&value->last);
	bpf_spin_unlock((void *)&value->last);
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
