// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Interrupt flags used wrongly.
//
// Rejected: EB0708 at line 16
#include "rejection.h"

extern void bpf_local_irq_save(unsigned long *flags) __ksym;
extern void bpf_local_irq_restore(unsigned long *flags) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	unsigned long flags = 0;

	bpf_local_irq_restore(&flags);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	bpf_local_irq_restore(&flags);
	return XDP_PASS;
}
