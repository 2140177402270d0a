// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Call with a spin lock held.
//
// Rejected: EB0701 at line 19
#include "rejection.h"

ARRAY(values, struct { struct bpf_spin_lock lock; __u64 last; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	bpf_spin_lock(&value->lock);
	value->last = bpf_ktime_get_ns();
	bpf_spin_unlock(&value->lock);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);
	__u64 now = bpf_ktime_get_ns();

	if (!value)
		return XDP_DROP;
	bpf_spin_lock(&value->lock);
	value->last = now;
	bpf_spin_unlock(&value->lock);
	return XDP_PASS;
}
