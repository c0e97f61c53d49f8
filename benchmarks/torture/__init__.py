"""Torture: hcache is killed, and its disk, files, rights, memory, clock and engine fail.

    python -m benchmarks.torture --kills 1000        # SIGKILLs of sampling at random moments
    python -m benchmarks.torture --every 1           # the list of faults, at every call on a file
    python -m benchmarks.torture --vllm 20           # SIGKILLs of sampling with real vLLM

`make torture` does all three. After each fault the same command is run again, and must make what
an undisturbed run makes. What came of them is printed as a table; exit code 1 if any of it is
wrong. Linux only.

scene.py          an experiment in a folder, and commands run in it
syscalls.py       asks before each call of a process on the files of a folder
works.py          the commands that are disturbed, and what they are to make
kills.py          signals at random moments
disk.py           no room, I/O errors and SIGKILL at each call
surroundings.py   files taken away, rights, memory, clock, engine
findings.py       what is right, and the table
"""
