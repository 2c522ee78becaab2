// build: -O1 -nostdlib -static
// build[32-bit]: -m32 -O1 -nostdlib -static
/* A program without any C library, hence without any allocator: it waits for stdin to end. */
#ifdef __i386__
__asm__(".globl _start\n"
        "_start:\n\t"
        "mov $3, %eax\n\txor %ebx, %ebx\n\tlea buffer, %ecx\n\tmov $1, %edx\n\tint $0x80\n\t"
        "test %eax, %eax\n\tjg _start\n\t"
        "mov $1, %eax\n\txor %ebx, %ebx\n\tint $0x80\n\t"
        ".bss\nbuffer: .skip 4\n");
#else
__asm__(".globl _start\n"
        "_start:\n\t"
        "xor %eax, %eax\n\txor %edi, %edi\n\tlea buffer(%rip), %rsi\n\tmov $1, %edx\n\tsyscall\n\t"
        "test %rax, %rax\n\tjg _start\n\t"
        "mov $60, %eax\n\txor %edi, %edi\n\tsyscall\n\t"
        ".bss\nbuffer: .skip 4\n");
#endif
