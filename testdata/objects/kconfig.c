// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Configuration values of every type.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int LINUX_KERNEL_VERSION __kconfig;
extern _Bool LINUX_HAS_BPF_COOKIE __kconfig __weak;
extern _Bool LINUX_HAS_SYSCALL_WRAPPER __kconfig __weak;
extern int LINUX_UNKNOWN_VIRTUAL_EXTERN __kconfig __weak;
extern unsigned long CONFIG_HZ __kconfig;
extern _Bool CONFIG_BPF_SYSCALL __kconfig;
extern enum libbpf_tristate CONFIG_NET __kconfig;
extern enum libbpf_tristate CONFIG_NO_SUCH_OPTION __kconfig __weak;
extern char CONFIG_BPF_JIT __kconfig;
extern char CONFIG_DEFAULT_HOSTNAME[12] __kconfig __weak;
extern char CONFIG_CC_VERSION_TEXT[6] __kconfig;
extern unsigned short CONFIG_NODES_SHIFT __kconfig __weak;
extern unsigned long CONFIG_PAGE_OFFSET __kconfig __weak;

__u64 out[16];

SEC("xdp")
int config(struct xdp_md *ctx)
{
	out[0] = LINUX_KERNEL_VERSION;
	out[1] = LINUX_HAS_BPF_COOKIE;
	out[2] = LINUX_UNKNOWN_VIRTUAL_EXTERN;
	out[3] = CONFIG_HZ;
	out[4] = CONFIG_BPF_SYSCALL;
	out[5] = CONFIG_NET;
	out[6] = CONFIG_NO_SUCH_OPTION;
	out[7] = CONFIG_BPF_JIT;
	out[8] = CONFIG_DEFAULT_HOSTNAME[1];
	out[9] = CONFIG_CC_VERSION_TEXT[3];
	out[10] = CONFIG_NODES_SHIFT;
	out[11] = LINUX_HAS_SYSCALL_WRAPPER;
	out[12] = CONFIG_PAGE_OFFSET;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
