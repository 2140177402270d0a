// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Calls a kernel function that no kernel has. It is not weak, so the object cannot be loaded. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int bpf_xdp_no_such_function(struct xdp_md *ctx) __ksym;

SEC("xdp")
int missing_kfunc(struct xdp_md *ctx)
{
	return bpf_xdp_no_such_function(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
