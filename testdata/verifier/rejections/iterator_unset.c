// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Iterator used before it is made, or after.
//
// Rejected: EB0905 at line 18
#include "rejection.h"

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct bpf_iter_num it;

	hide_address(&it);
	return bpf_iter_num_next(&it) ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct bpf_iter_num it;
	int found;

	bpf_iter_num_new(&it, 0, 10);
	found = bpf_iter_num_next(&it) != NULL;
	bpf_iter_num_destroy(&it);
	return found ? XDP_PASS : XDP_DROP;
}
