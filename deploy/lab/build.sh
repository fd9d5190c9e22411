#!/usr/bin/env bash
# Builds the lab, unless this very source has been built before, and prints the
# folder that has the binaries lab and lab-vault. All else goes to stderr.
#
# The first build of all compiles kube-apiserver and Vault, which takes minutes;
# after an edit it is a matter of seconds. Builds are kept outside the clone, in
# $CERTD_LAB_CACHE (default: certd-lab in the user's cache folder), by content.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Only what is set here decides what is built: flags from outside would also
# compile everything a second time.
export CGO_ENABLED=0 GOFLAGS= GOWORK=off GOOS= GOARCH= GOEXPERIMENT=
kubernetes=$(sed -n 's|^\tk8s.io/kubernetes v||p' go.mod | head -1)
minor=${kubernetes#*.}
minor=${minor%%.*}
flags="-s -w -X k8s.io/component-base/version.gitVersion=v$kubernetes -X k8s.io/component-base/version.gitMajor=${kubernetes%%.*} -X k8s.io/component-base/version.gitMinor=$minor"

sources() {
	find . -type f ! -name '*_test.go' ! -path '*/testdata/*' \( -name '*.go' -o -name go.mod -o -name go.sum -o -name '*.yaml' -o -name build.sh \) -print0 |
		LC_ALL=C sort -z
}
hash=$({ go version; sources | xargs -0 sha256sum; } | sha256sum | cut -c1-32)
cache=${CERTD_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/certd-lab}
built=$cache/$hash

if [ ! -x "$built/lab" ] || [ ! -x "$built/lab-vault" ]; then
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock -n 9 || { echo "another build of the lab is running; waiting for it" >&2; flock 9; }
	if [ ! -x "$built/lab" ] || [ ! -x "$built/lab-vault" ]; then
		start=$SECONDS
		echo "building the lab: kube-apiserver v$kubernetes and Vault; minutes the first time" >&2
		temporary=$(mktemp -d "$cache/new.XXXXXX")
		trap 'rm -rf "$temporary"' EXIT
		go build -buildvcs=false -ldflags "$flags" -o "$temporary/lab" . >&2
		(cd vault && go build -buildvcs=false -ldflags "-s -w" -o "$temporary/lab-vault" .) >&2
		chmod 755 "$temporary"
		rm -rf "$built"
		mv "$temporary" "$built"
		trap - EXIT
		echo "built the lab in $((SECONDS - start)) s" >&2
	fi
	# Builds of other sources, and what interrupted builds left.
	find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name "$hash" -mtime +7 -exec rm -rf {} + || true
fi
touch "$built" # in use
echo "$built"
