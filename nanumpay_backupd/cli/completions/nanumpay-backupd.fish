# fish completion for nanumpay-backupd. Written by `make man` from the program's own parser.

# Prints the command (or a dash) and which of its arguments is being typed, counted from 1.
function __nanumpay_backupd_place
    set -l tokens (commandline -opc)
    set -l command -
    set -l at 1
    set -l value no
    for token in $tokens[2..-1]
        if test $value = yes
            set value no
            continue
        end
        switch $token
            case --at --collection --config --from --identity --job --keep-in --kind --only --only-to --passphrase-file --to --to-db --user --work
                set value yes
            case '-*'
            case '*'
                if test $command = -
                    set command $token
                else
                    set at (math $at + 1)
                end
        end
    end
    echo $command $at
end

# Is the command one of these?
function __nanumpay_backupd_in
    set -l place (__nanumpay_backupd_place | string split ' ')
    contains -- $place[1] $argv
end

# Is it this argument of this command?
function __nanumpay_backupd_at
    test (__nanumpay_backupd_place) = "$argv"
end

# Prints the words that the daemon knows.
function __nanumpay_backupd_words
    set -l tokens (commandline -opc)
    set -l socket
    for i in (seq (count $tokens))
        if string match -q -- '--socket=*' $tokens[$i]
            set socket --socket (string replace -- --socket= '' $tokens[$i])
        else if test $tokens[$i] = --socket; and set -q tokens[(math $i + 1)]
            set socket --socket $tokens[(math $i + 1)]
        end
    end
    backupctl complete $socket $argv 2>/dev/null
end

complete -c nanumpay-backupd -f
complete -c nanumpay-backupd -s h -l help -d 'show this help message and exit'
complete -c nanumpay-backupd -l config -r -F -d 'host file (default: $NANUMPAY_BACKUPD_CONFIG, or /etc/nanumpay/backupd.toml if it exists)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -l version -d 'show program\'s version number and exit'

complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -a serve -d 'run the daemon in the foreground (default)'

complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -a run-once -d 'make one backup in this process and exit'
complete -c nanumpay-backupd -n '__nanumpay_backupd_at run-once 1' -k -a '(__nanumpay_backupd_words jobs)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in run-once' -l kind -x -a 'full incremental differential' -d 'full (default), incremental: the changes since the last slice, differential: those since the last full (both on a replica set)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in run-once' -l force -d 'also when the job is disabled'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in run-once' -l only-to -x -k -a '(__nanumpay_backupd_words destinations)' -d 'copies to this destination only, this once; several with commas; local: none elsewhere'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in run-once' -l only-db -d 'only what saves a database: of a group, or without JOB of all enabled jobs, one after the other'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in run-once' -l only-files -d 'only what saves files: of a group, or without JOB of all enabled jobs, one after the other'

complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -a restore -d 'restore on a machine that has nothing but the copies'
complete -c nanumpay-backupd -n '__nanumpay_backupd_at restore 1' -k -a 'latest (__nanumpay_backupd_words backups made groups)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l from -x -k -a '(__nanumpay_backupd_words named) (__fish_complete_directories)' -d 's3://bucket/prefix, ftp(s)://user@host/path, a folder, or a destination of the host file'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l at -x -a 'latest' -d 'the moment to restore, to the second (see below)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l job -x -k -a '(__nanumpay_backupd_words jobs)' -d 'whose backups, where there are several jobs'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l to-db -x -d 'into this database'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l to -r -F -d 'to this folder or file (not MongoDB)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l collection -x -k -a '(__nanumpay_backupd_words collections)' -d 'only this collection'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l only -r -F -d 'only this part or path'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l only-db -d 'of a group: only what is of a database'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l only-files -d 'of a group: only what is of files'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l partial -d 'of a group: what there is, although not all of it'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l overwrite -d 'what is there may be replaced (not MongoDB)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l identity -r -F -d 'a private key (OpenPGP as text, age, ssh) for what is encrypted; may be given several times'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l passphrase-file -r -F -d 'the passphrase, in its first line (default: asked for on the terminal)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l work -x -a '(__fish_complete_directories)' -d 'where to unpack (default: $TMPDIR or /var/tmp)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l list -d 'only show what is there, and up to when it leads'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l dry-run -d 'only show what would be done'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l no-safety-backup -d 'do not save what is there'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in restore' -l yes -d 'do not ask'

complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -a check-config -d 'read the host file and say whether it is right'

complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -a rebuild -d 'read the catalog anew from the manifests'

complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -a take-over-crontab -d 'take the old program\'s lines out of root\'s and the application\'s crontab'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in take-over-crontab' -l user -x -d 'of this user; may be given several times (default: root and nanumpay, or your own)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in take-over-crontab' -l keep-in -x -a '(__fish_complete_directories)' -d 'where the crontab as it was is kept (default: /var/lib/nanumpay-backupd)'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in take-over-crontab' -l dry-run -d 'only show what would be done'

complete -c nanumpay-backupd -n '__nanumpay_backupd_in -' -a prepare-folder -d 'make the backups folder and the unit\'s drop-in'
complete -c nanumpay-backupd -n '__nanumpay_backupd_in prepare-folder' -l dry-run -d 'only show which folder it is'
