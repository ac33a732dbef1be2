// Starts the parts that the page contains.
import { startLive } from "./live.js";
import { startFilters } from "./filters.js";
import { startGallery } from "./gallery.js";
import { startRequests } from "./requests.js";
import { startChooser, startCompare } from "./compare.js";
import { startDeliver } from "./deliver.js";
import { startRerun } from "./rerun.js";
import { startSubmit } from "./submit.js";
import { startThroughput } from "./throughput.js";

startLive();
startFilters();
if (document.getElementById("gallery")) startGallery();
if (document.querySelector("form[data-compare]")) startChooser();
if (document.getElementById("compare")) startCompare();
if (document.getElementById("deliveries")) startDeliver();
if (document.getElementById("rerun-dialog")) startRerun();
if (document.getElementById("throughput")) startThroughput();
if (document.getElementById("submit-form")) startSubmit();
if (document.getElementById("request-dialog")) startRequests();
