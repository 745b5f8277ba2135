"""Which system calls confined code may not make, and their numbers.

Denied is what confined code has no use for and what has been a way out, or holds memory that nobody
counts: segments, queues and files without a name. The numbers are those of the kernel's tables
(`arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/asm-generic/unistd.h`); calls newer than
the two tables' parting have one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

X86_64 = "x86_64"
AARCH64 = "aarch64"

# name: (x86-64, aarch64); None: the architecture has no such call
DENIED: Mapping[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # file systems
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "fanotify_init": (300, 262),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    # namespaces; `clone` is looked into
    "unshare": (272, 97),
    "setns": (308, 268),
    # keys
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # large parts of the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "nfsservctl": (180, 42),
    # the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "acct": (163, 89),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    # memory that belongs to no process
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
# What changes files without opening them, which Landlock lets pass: owners, modes, times.
CHANGES: Mapping[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}


@dataclass(frozen=True)
class Architecture:
    """`audit`: the kernel's word for it (`include/uapi/linux/audit.h`). `foreign`: calls from this
    number on are another architecture's (x32).
    """

    audit: int
    denied: tuple[int, ...]
    changes: tuple[int, ...]
    clone: int
    clone3: int
    socket: int
    socketpair: int
    ioctl: int
    foreign: int | None = None


def _numbers(table: Mapping[str, tuple[int | None, int | None]], column: int) -> tuple[int, ...]:
    found = (row[column] for row in table.values())
    return tuple(number for number in found if number is not None)


ARCHITECTURES: Mapping[str, Architecture] = {
    X86_64: Architecture(
        audit=0xC000003E,
        denied=_numbers(DENIED, 0),
        changes=_numbers(CHANGES, 0),
        clone=56,
        clone3=435,
        socket=41,
        socketpair=53,
        ioctl=16,
        foreign=0x40000000,
    ),
    AARCH64: Architecture(
        audit=0xC00000B7,
        denied=_numbers(DENIED, 1),
        changes=_numbers(CHANGES, 1),
        clone=220,
        clone3=435,
        socket=198,
        socketpair=199,
        ioctl=29,
    ),
}
