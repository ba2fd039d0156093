"""The registry of many machines: names in etcd, held by leases.

``etcd://HOST[:PORT][,HOST[:PORT]…]/PREFIX``; below the prefix two keys a name, each with a JSON object:

    live/<name>   who serves under it now; it goes with its lease
    work/<name>   what is known of the Work last started under it; it stays

`address` reads the URL, `access` says who we are to etcd, `connection` calls it, `records` are the
values of the keys, `pair` both of one name, `cache` holds what `watch` is told, and `registry` is the
adapter.
"""
