# What people run; see README.md. Every target is a script of tools/, which says more.

.PHONY: help run test check bench coverage guest fmt clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

run: ## boot a small Linux guest under the supervisors and show its console
	@tools/run.sh

test: ## install what the tests need and run all of them
	@tools/test.sh

check: ## format, lints and documentation, as continuous integration checks them
	@tools/check.sh

bench: ## measure starts, calls and memory beside bare QEMU, as root
	@tools/prepare.sh
	@tools/packages.sh --no-services virsh=libvirt-clients libvirt-daemon-system libvirt-daemon-driver-qemu python3-libvirt
	@cargo build --release --bins
	@target/release/bulkhead-bench

coverage: ## print which operations each driver answers, beside libvirt's, and write docs/coverage.md
	@tools/prepare.sh
	@REGENERATE_COVERAGE=1 cargo test --quiet -p bulkhead-tests --test coverage >&2
	@cat docs/coverage.md

guest: ## make the guest of `make run` and of the tests in build/guest
	@tools/guest-image.sh build/guest

fmt: ## format the sources
	@cargo fmt --all

clean: ## remove all that was built
	@cargo clean
	@rm -rf build
