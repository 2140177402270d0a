// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Kernel functions and variables: there, absent and weak; called and taken the address of.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_iter_num {
	__u64 opaque[1];
};

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym __weak;
extern int bpf_no_such_kfunc(struct xdp_md *ctx, int) __ksym __weak;
extern void bpf_no_such_kfunc_either(void) __ksym __weak;
extern const int no_such_variable __ksym __weak;
extern const void no_such_symbol __ksym __weak;
extern const void schedule __ksym;

__u64 out[4];

SEC("xdp")
int ksyms(struct xdp_md *ctx)
{
	struct bpf_iter_num it;
	int *v, sum = 0;

	bpf_iter_num_new(&it, 0, 10);
	while ((v = bpf_iter_num_next(&it)))
		sum += *v;
	bpf_iter_num_destroy(&it);
	if (bpf_no_such_kfunc)
		sum += bpf_no_such_kfunc(ctx, 1);
	if (bpf_no_such_kfunc_either)
		bpf_no_such_kfunc_either();
	if (&no_such_variable)
		sum += no_such_variable;
	out[0] = (__u64)&no_such_symbol;
	out[1] = sum;
	out[2] = (__u64)&schedule;
	return sum == 45 ? XDP_PASS : XDP_ABORTED;
}

char _license[] SEC("license") = "Dual MIT/GPL";
