// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What libbpf understands from 1.3 on: flavours of kernel functions and exception callbacks.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern void bpf_throw(__u64 cookie) __ksym;
extern void bpf_preempt_disable___flavour(void) __ksym __weak;
extern void bpf_preempt_enable___flavour(void) __ksym __weak;
/* The kernel's takes one argument. */
extern int bpf_dynptr_size___other(void *a, void *b, void *c) __ksym __weak;

__noinline int on_exception(__u64 cookie)
{
	return cookie ? XDP_ABORTED : XDP_DROP;
}

SEC("xdp")
__attribute__((btf_decl_tag("exception_callback:on_exception")))
int throws(struct xdp_md *ctx)
{
	if (bpf_preempt_disable___flavour) {
		bpf_preempt_disable___flavour();
		bpf_preempt_enable___flavour();
	}
	if (bpf_dynptr_size___other)
		bpf_dynptr_size___other(0, 0, 0);
	if (ctx->rx_queue_index > 100)
		bpf_throw(1);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
