// What the npm client sees of repositories. Run in a folder whose node_modules holds @huggingface/hub:
//   echo '{"hubUrl": ..., "accessToken": ..., "repos": [{"type": "model", "name": "me/thing"}]}' | node npm_client.mjs
// It prints, as JSON, per "type name": sums of the files, of a snapshot's too, the info, and what is not there.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdtemp, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as client from "@huggingface/hub";

const { repos, ...hub } = JSON.parse(readFileSync(0, "utf8"));
const infos = { model: client.modelInfo, dataset: client.datasetInfo, space: client.spaceInfo };
const lists = { model: client.listModels, dataset: client.listDatasets, space: client.listSpaces };
const sum = (bytes) => createHash("sha256").update(bytes).digest("hex");
console.debug = () => {};

const told = {};
for (const repo of repos) {
  const seen = { files: {}, snapshot: {}, sizes: {} };
  const cacheDir = await mkdtemp(join(process.cwd(), "cache-"));
  const snapshot = await client.snapshotDownload({ repo, cacheDir, ...hub });
  for await (const file of client.listFiles({ repo, recursive: true, ...hub })) {
    if (file.type !== "file") continue;
    const blob = await client.downloadFile({ repo, path: file.path, ...hub });
    seen.files[file.path] = sum(Buffer.from(await blob.arrayBuffer()));
    seen.snapshot[file.path] = sum(await readFile(join(snapshot, file.path)));
    seen.sizes[file.path] = file.size;
  }
  const info = await infos[repo.type]({ name: repo.name, additionalFields: ["sha", "tags"], ...hub });
  Object.assign(seen, { name: info.name, sha: info.sha, tags: info.tags, private: info.private, listed: false });
  for await (const one of lists[repo.type]({ search: { owner: repo.name.split("/")[0] }, ...hub })) {
    seen.listed ||= one.name === repo.name;
  }
  seen.readme = await client.fileExists({ repo, path: "README.md", ...hub });
  seen.nothing = await client.fileExists({ repo, path: "nothing.txt", ...hub });
  seen.missing = await client.downloadFile({ repo, path: "nothing.txt", ...hub });
  told[`${repo.type} ${repo.name}`] = seen;
}
console.log(JSON.stringify(told));
