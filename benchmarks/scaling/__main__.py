"""python -m benchmarks.scaling S3 --out DIR: one scale test, in this process."""

import sys

from benchmarks.scaling.run import main

if __name__ == "__main__":
    sys.exit(main())
