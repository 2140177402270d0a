// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Preemption enabled that was not disabled.
//
// Rejected: EB0707 at line 14
#include "rejection.h"

extern void bpf_preempt_disable(void) __ksym;
extern void bpf_preempt_enable(void) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	bpf_preempt_enable();
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	bpf_preempt_disable();
	bpf_preempt_enable();
	return XDP_PASS;
}
