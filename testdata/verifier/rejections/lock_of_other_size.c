// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A struct with the name of a lock but not its size is no lock.
//
// Rejected: EB0511 at line 38
// Cause: source
#define bpf_res_spin_lock lock_of_four_bytes
#include "rejection.h"
#undef bpf_res_spin_lock

struct bpf_res_spin_lock {
	__u64 val;
};

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

struct of_other_size {
	struct bpf_res_spin_lock lock;
	__u64 count;
};
ARRAY(other, struct of_other_size, 1);

struct of_this_size {
	struct bpf_spin_lock lock;
	__u64 count;
};
ARRAY(counters, struct of_this_size, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct of_other_size *value = bpf_map_lookup_elem(&other, &key);

	if (!value)
		return XDP_ABORTED;
	if (bpf_res_spin_lock(&value->lock))
		return XDP_DROP;
	value->count++;
	bpf_res_spin_unlock(&value->lock);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct of_this_size *value = bpf_map_lookup_elem(&counters, &key);

	if (!value)
		return XDP_ABORTED;
	bpf_spin_lock(&value->lock);
	value->count++;
	bpf_spin_unlock(&value->lock);
	return XDP_PASS;
}
