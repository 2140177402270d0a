// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Second lock while one is held.
//
// Rejected: EB0703 at line 22
#include "rejection.h"

ARRAY(values, struct { struct bpf_res_spin_lock lock; __u32 count; }, 1);

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value || bpf_res_spin_lock(&value->lock))
		return XDP_DROP;
	value->count++;
	if (!bpf_res_spin_lock(&value->lock))
		bpf_res_spin_unlock(&value->lock);
	bpf_res_spin_unlock(&value->lock);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value || bpf_res_spin_lock(&value->lock))
		return XDP_DROP;
	value->count++;
	bpf_res_spin_unlock(&value->lock);
	return XDP_PASS;
}
