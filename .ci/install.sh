# `install VENV ARGUMENTS` is what `VENV/bin/pip install ARGUMENTS` is: by uv, which does it in a fifth of the time, but
# reads none of pip's settings; where there is no uv, by pip.

install() {
    local venv=$1
    by_uv "$@" || PIP_COMPILE=0 "$venv/bin/pip" install "${@:2}"
    # What pip does on one core, and for all; the rest is compiled where it is imported.
    "$venv/bin/python" -W ignore -m compileall -q -j 0 -x '/tests?/|/transformers/models/|/sympy/|/numba/' "$venv/lib" \
        >/dev/null || true
}

by_uv() {
    local venv=$1 index extra links constraint cert
    "$venv/bin/pip" install --quiet uv || return 1
    setting() { "$venv/bin/pip" config list 2>/dev/null | sed -n "s/^[a-z:]*\.$1='\(.*\)'$/\1/p" | tail -1; }
    index=$(setting index-url) extra=$(setting extra-index-url) links=$(setting find-links)
    constraint=$(setting constraint) cert=$(setting cert)
    env ${index:+UV_DEFAULT_INDEX="$index"} ${extra:+UV_INDEX="$extra"} ${links:+UV_FIND_LINKS="$links"} \
        ${constraint:+UV_CONSTRAINT="$constraint"} ${cert:+SSL_CERT_FILE="$cert"} UV_HTTP_TIMEOUT=300 \
        "$venv/bin/uv" pip install --python "$venv" --index-strategy unsafe-best-match "${@:2}"
}
