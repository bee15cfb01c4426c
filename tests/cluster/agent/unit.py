"""tests/cluster/agent/unit.py - starts what a systemd unit says, as nearly as can be without systemd.

  unshare -m unit.py UNIT INSTANCE PROGRAM ETC STATE OUTGOING

In a mount namespace of its own: PROGRAM's folder is /usr/bin, ETC is /etc/mikura, STATE is /var/lib/STATEDIRECTORY and
OUTGOING is /srv; then the unit's user, file systems, devices, capabilities, address families, limits and environment, and its
ExecStart in this process's place. A setting that is neither applied nor known to need systemd itself is an error, so that
the unit cannot say more than is tried here.
"""
import ctypes
import os
import resource
import socket
import struct
import subprocess
import sys

UID = 64999
LIBC = ctypes.CDLL(None, use_errno=True)
# what only systemd (restarts, stop, reload) or cgroups can do, or what forbids system calls that are not tried here
NOT_HERE = {'Type', 'ExecReload', 'Restart', 'RestartSec', 'RestartPreventExitStatus', 'KillSignal', 'TimeoutStopSec', 'MemoryMax',
            'ProtectControlGroups', 'ProtectKernelModules', 'ProtectKernelLogs', 'ProtectClock', 'ProtectHostname', 'LockPersonality',
            'RestrictRealtime', 'RestrictSUIDSGID', 'RestrictNamespaces', 'SystemCallArchitectures'}


def settings(unit, instance):
    section, got = None, []
    for line in open(unit, encoding='ascii'):
        line = line.strip()
        if line.startswith('['):
            section = line
        elif line and line[0] != '#' and section == '[Service]':
            key, _, value = line.partition('=')
            got.append((key, value.replace('%i', instance)))
    return got


def mount(*words):
    subprocess.run(['mount', *words], check=True)


def overlay(on, work):
    """Writable without being written to; the new files' folder."""
    up = os.path.join(work, on.replace('/', '_'))
    os.makedirs(up)
    os.makedirs(up + '.w')
    mount('-t', 'overlay', 'overlay', '-o', 'lowerdir=%s,upperdir=%s,workdir=%s.w' % (on, up, up), on)
    return on


def read_only(below):
    for line in open('/proc/self/mounts', encoding='ascii'):
        at = line.split()[1].encode().decode('unicode_escape')
        if at == below or at.startswith(below.rstrip('/') + '/') or below == '/':
            if below == '/' and at.split('/')[1] in ('dev', 'proc', 'sys'):
                continue
            subprocess.run(['mount', '-o', 'remount,bind,ro', at], check=False, stderr=subprocess.DEVNULL)


def devices():
    mount('-t', 'tmpfs', '-o', 'mode=755', 'none', '/dev')
    for name, minor in (('null', 3), ('zero', 5), ('full', 7), ('random', 8), ('urandom', 9)):
        os.mknod('/dev/' + name, 0o20666, os.makedev(1, minor))
        os.chmod('/dev/' + name, 0o666)


def address_families(names):
    """socket() of another family fails with EAFNOSUPPORT, as systemd does it (x86-64)."""
    allowed = [getattr(socket, n) for n in names.split()]
    code = [(0x20, 0, 0, 0), (0x15, 0, len(allowed) + 2, 41), (0x20, 0, 0, 16)]  # the call; socket(2); its first argument
    code += [(0x15, len(allowed) - i, 0, a) for i, a in enumerate(allowed)]
    code += [(0x06, 0, 0, 0x00050000 | 97), (0x06, 0, 0, 0x7fff0000)]
    text = b''.join(struct.pack('HBBI', *c) for c in code)
    memory = ctypes.create_string_buffer(text)
    program = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(memory))
    if LIBC.prctl(38, 1, 0, 0, 0) != 0 or LIBC.prctl(22, 2, ctypes.c_char_p(program), 0, 0) != 0:
        sys.exit('seccomp: errno %d' % ctypes.get_errno())


def main():
    unit, instance, program, etc, state, outgoing = sys.argv[1:]
    said = settings(unit, instance)
    env, command, families = {'PATH': '/usr/bin:/bin', 'LANG': 'C.UTF-8'}, None, None
    mount('--make-rprivate', '/')
    mount('-t', 'tmpfs', 'none', '/mnt')
    for name, at in (('program', os.path.dirname(program)), ('etc', etc), ('state', state), ('outgoing', outgoing)):
        os.makedirs('/mnt/' + name)
        mount('--bind', at, '/mnt/' + name)
    for name in os.listdir('/mnt/program'):
        if name.startswith('mikura'):
            open(os.path.join(overlay('/usr/bin', '/mnt') if not os.path.exists('/mnt/_usr_bin') else '/usr/bin', name), 'w').close()
            mount('--bind', '/mnt/program/' + name, '/usr/bin/' + name)
    os.makedirs(overlay('/etc', '/mnt') + '/mikura')
    mount('--bind', '/mnt/etc', '/etc/mikura')
    mount('--bind', '/mnt/outgoing', '/srv')
    with open('/etc/passwd', 'a', encoding='ascii') as f:
        f.write('mikura-agent:x:%d:%d::/nonexistent:/usr/sbin/nologin\n' % (UID, UID))
    for key, value in said:
        if key == 'StateDirectory':
            at = overlay('/var/lib', '/mnt') + '/' + value
            os.makedirs(at)
            mount('--bind', '/mnt/state', at)
            os.chown(at, UID, UID)
    for key, value in said:  # after what the namespace itself needs
        if key == 'ProtectSystem' and value == 'strict':
            read_only('/')
            subprocess.run(['mount', '-o', 'remount,bind,rw', '/var/lib/mikura-agent'], check=True)
        elif key == 'PrivateTmp' and value == 'yes':
            for at in ('/tmp', '/var/tmp'):
                mount('-t', 'tmpfs', '-o', 'mode=1777', 'none', at)
        elif key == 'ProtectHome' and value == 'read-only':
            for at in ('/home', '/root'):
                mount('--bind', at, at)
                read_only(at)
        elif key == 'ProtectKernelTunables' and value == 'yes':
            for at in ('/proc/sys', '/sys'):
                mount('--bind', '-o', 'ro', at, at)
        elif key == 'PrivateDevices' and value == 'yes':
            devices()
        elif key == 'StateDirectoryMode':
            os.chmod('/var/lib/mikura-agent', int(value, 8))
        elif key == 'UMask':
            os.umask(int(value, 8))
        elif key == 'LimitNOFILE':
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(value), int(value)))
        elif key == 'Environment':
            env.update([value.split('=', 1)])
        elif key == 'RestrictAddressFamilies':
            families = value
        elif key == 'ExecStart':
            command = value.split()
        elif key == 'User' and value == 'mikura-agent' or key == 'StateDirectory' and value == 'mikura-agent' or \
                key == 'NoNewPrivileges' and value == 'yes' or key == 'CapabilityBoundingSet' and value == '' or key in NOT_HERE:
            pass
        else:
            sys.exit('%s=%s is not tried: add it to unit.py' % (key, value))
    os.chdir('/')
    prefix = ['setpriv', '--reuid=%d' % UID, '--regid=%d' % UID, '--clear-groups', '--bounding-set=-all', '--no-new-privs']
    address_families(families)
    os.execvpe(prefix[0], prefix + command, env)


if __name__ == '__main__':
    main()
