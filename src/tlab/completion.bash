# Completes tlab's commands in bash, and in zsh through bashcompinit. Install it for this shell:
#   eval "$(python -m tlab.train --shell-completion install=bash)"
# Hydra's own script does not know `python -m`.

if [ -n "$ZSH_VERSION" ]; then
    autoload -U +X compinit && compinit
    autoload -U +X bashcompinit && bashcompinit
    setopt shwordsplit 2>/dev/null
fi
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}

_tlab_completion() {
    local line="${COMP_LINE:0:$COMP_POINT}" python=python module rest word choices
    case "$line" in
        *"-m tlab."*)
            python="${line%% *}"
            rest="${line#*-m }"
            module="${rest%% *}"
            ;;
        tlab-*)
            rest="$line"
            module="tlab.${line#tlab-}"
            module="${module%% *}"
            ;;
        *) return 0 ;;
    esac
    [ "$rest" = "${rest#* }" ] && return 0 # still in the command's own name
    word="${rest##* }"
    rest="tlab ${rest#* }"
    choices=$(COMP_LINE="$rest" COMP_POINT=${#rest} "$python" -m "$module" --shell-completion query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
}

complete -o nospace -o default -F _tlab_completion python python3 tlab-train tlab-evaluate tlab-predict tlab-compare tlab-tune tlab-audit tlab-advise tlab-study tlab-export tlab-serve
