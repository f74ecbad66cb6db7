#!/bin/sh
# examples/l2ladv.py: test_python.py does the work.
#   usage: tests/test_python.sh      CC=compiler   PYTHON=python   KEEP=1 keeps the working directory
# Needs cc and NumPy (python3-numpy), else it is skipped; what needs PyTorch is skipped without it.
# The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"

python=
for modules in 'torch, numpy' numpy; do
    for candidate in ${PYTHON:-python3 /usr/bin/python3}; do
        [ -z "$python" ] && "$candidate" -c "import $modules" >/dev/null 2>&1 && python=$candidate
    done
done
if [ -z "$python" ]; then
    echo "skipped: l2ladv.py needs NumPy (python3-numpy)"
    finish
fi
PYTHONDONTWRITEBYTECODE=1
PYTHONPATH=$examples:$tests/peer
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
L2LADV_CACHE=$work/cache
export PYTHONDONTWRITEBYTECODE PYTHONPATH OMP_NUM_THREADS L2LADV_CACHE
unset L2LADV_HEADER
"$python" "$tests/test_python.py" >"$work/log" 2>&1
status=$?
cat "$work/log"
counts=$(tail -n 1 "$work/log")
if ! echo "$counts" | grep -qE '^[0-9]+ passed, [0-9]+ failed$'; then
    echo "FAILED: test_python.py ended with status $status"
    failed=1
    finish
fi
exit "$status"
